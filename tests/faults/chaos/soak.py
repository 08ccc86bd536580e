"""Whether the memory and the open files of every process stay flat in an hour with a fault a minute."""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.chaos.stack import Stack

_EVERY_SECONDS = 5.0
_YOUNG_SECONDS = 120.0  # a process grows while it imports, connects and fills its pools
_LONG_SECONDS = 120.0  # of a series, without its youth; a shorter one has no slope
_PAGES_TO_MB = 4096 / 2**20


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    role: str
    pid: int
    at: float  # time.monotonic()
    memory_mb: float
    descriptors: int


@dataclass(frozen=True)
class Slope:
    """How a role's processes grew, each against its own mean: one slope through all of its series."""

    role: str
    processes: int  # series that were long enough
    longest_minutes: float
    memory_mb: float  # at the end of the longest
    memory_mb_per_hour: float
    late_memory_mb_per_hour: float  # over the second half of each series
    descriptors: int
    descriptors_per_hour: float


class Sampler:
    """A thread that looks at every process of a stack, those under gunicorn too."""

    def __init__(self, stack: Stack) -> None:
        self.samples: list[Sample] = []
        self._stack = stack
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Look until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_SECONDS):
            for name in self._stack.programs:
                pid = self._stack.pid(name)
                self._look(name, pid)
                if name == "web":
                    for child in _children(pid):
                        self._look("web (serving)", child)

    def _look(self, role: str, pid: int) -> None:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return  # it has just died
        self.samples.append(Sample(role, pid, time.monotonic(), pages * _PAGES_TO_MB, descriptors))


def slopes(samples: Sequence[Sample]) -> list[Slope]:
    """One line for each role that had a process which lived long enough."""
    series: dict[str, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        series[sample.role][sample.pid].append(sample)
    return [slope for role, of in series.items() if (slope := _slope(role, list(of.values()))) is not None]


def as_markdown(found: Sequence[Slope]) -> str:
    """The table."""
    head = (
        "| process | lives | longest | memory at its end | per hour | in second halves | files | per hour |"
    )
    rows = [
        f"| {s.role} | {s.processes} | {s.longest_minutes:.0f} min | {s.memory_mb:.1f} MB "
        f"| {s.memory_mb_per_hour:+.1f} MB | {s.late_memory_mb_per_hour:+.1f} MB "
        f"| {s.descriptors} | {s.descriptors_per_hour:+.1f} |"
        for s in found
    ]
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|---:|", *rows])


def least_squares(series: Sequence[Sequence[tuple[float, float]]]) -> float:
    """The slope that all series of (x, y) share, each with a level of its own."""
    above = below = 0.0
    for points in series:
        x_mean = sum(x for x, _ in points) / len(points)
        y_mean = sum(y for _, y in points) / len(points)
        above += sum((x - x_mean) * (y - y_mean) for x, y in points)
        below += sum((x - x_mean) ** 2 for x, _ in points)
    return above / below if below else 0.0


def _slope(role: str, lives: list[list[Sample]]) -> Slope | None:
    grown = [[each for each in life if each.at >= life[0].at + _YOUNG_SECONDS] for life in lives]
    grown = [life for life in grown if life and life[-1].at - life[0].at >= _LONG_SECONDS]
    if not grown:
        return None
    longest = max(grown, key=lambda life: life[-1].at - life[0].at)
    late = [life[len(life) // 2 :] for life in grown]
    return Slope(
        role=role,
        processes=len(grown),
        longest_minutes=(longest[-1].at - longest[0].at + _YOUNG_SECONDS) / 60,
        memory_mb=longest[-1].memory_mb,
        memory_mb_per_hour=least_squares([[(s.at / 3600, s.memory_mb) for s in life] for life in grown]),
        late_memory_mb_per_hour=least_squares([[(s.at / 3600, s.memory_mb) for s in life] for life in late]),
        descriptors=longest[-1].descriptors,
        descriptors_per_hour=least_squares([[(s.at / 3600, s.descriptors) for s in life] for life in grown]),
    )


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
