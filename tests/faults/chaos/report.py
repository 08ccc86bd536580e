"""The table of a run, or of several added up."""

import json
import os
import platform
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stack import ROOT
from tests.faults.chaos import oracle
from tests.faults.chaos.ledger import Ledger
from tests.faults.chaos.oracle import Verdict
from tests.faults.chaos.recovery import percentile, recovered_after, slowest_create


@dataclass
class Line:
    """What one fault did, over all its tries."""

    row: str
    fault: str
    tries: int = 0
    lost: int = 0
    doubled: int = 0
    poisoned: int = 0
    unrecovered: int = 0
    seconds: list[float] = field(default_factory=list)  # of each recovery
    slowest: list[float] = field(default_factory=list)  # create of each, in seconds
    said: dict[str, int] = field(default_factory=dict)


@dataclass
class Report:
    """What is printed, and kept as JSON to be added up."""

    machine: str
    date: str
    commit: str
    seconds: float
    creates: dict[str, int]
    accepted: int
    ended: dict[str, int]
    lost: int
    doubled: int
    poisoned: int
    wrong: int
    stale: int
    kills: dict[str, int]
    lines: list[Line]
    runs: int = 1
    borne: float = 0.0  # creates per second, before a soak
    rate: float = 0.0  # of that

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.poisoned or self.wrong or self.stale)


def of(ledger: Ledger, verdict: Verdict, seconds: float, creates: dict[str, int]) -> Report:
    """The report of a run that has ended."""
    strikes = ledger.strikes()
    lines: dict[tuple[str, str], Line] = {}
    kills: Counter[str] = Counter()
    shares = [oracle.by_strike(ledger, each) for each in (verdict.lost, verdict.doubled, verdict.poisoned)]
    for number, strike in enumerate(strikes):
        line = lines.setdefault((strike.row, strike.fault), Line(strike.row, strike.fault))
        line.tries += 1
        line.lost, line.doubled, line.poisoned = (
            before + share[number]
            for before, share in zip((line.lost, line.doubled, line.poisoned), shares, strict=True)
        )
        after = recovered_after(ledger, strike)
        line.unrecovered += after is None
        line.seconds += [] if after is None else [round(after, 3)]
        slowest = slowest_create(ledger, strike)
        line.slowest += [] if slowest is None else [round(slowest, 3)]
        if strike.said:
            line.said[strike.said] = line.said.get(strike.said, 0) + 1
        kills.update(strike.kills)
    return Report(
        machine=_machine(),
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=_commit(),
        seconds=round(seconds, 1),
        creates=creates,
        accepted=verdict.accepted,
        ended=verdict.ended,
        lost=len(verdict.lost),
        doubled=len(verdict.doubled),
        poisoned=len(verdict.poisoned),
        wrong=len(verdict.wrong),
        stale=verdict.stale,
        kills=dict(kills),
        lines=sorted(lines.values(), key=lambda line: _order(line.row)),
    )


def add(reports: list[Report]) -> Report:
    """Several runs as one; the date and the commit name all of them."""
    lines: dict[tuple[str, str], Line] = {}
    for report in reports:
        for line in report.lines:
            sum_ = lines.setdefault((line.row, line.fault), Line(line.row, line.fault))
            for name in ("tries", "lost", "doubled", "poisoned", "unrecovered"):
                setattr(sum_, name, getattr(sum_, name) + getattr(line, name))
            sum_.seconds += line.seconds
            sum_.slowest += line.slowest
            sum_.said = _added([sum_.said, line.said])
    counts = {name: sum(getattr(each, name) for each in reports) for name in _COUNTS}
    return Report(
        machine=_once(report.machine for report in reports),
        date=_once(report.date for report in reports),
        commit=_once(report.commit for report in reports),
        creates=_added(report.creates for report in reports),
        ended=_added(report.ended for report in reports),
        kills=_added(report.kills for report in reports),
        lines=sorted(lines.values(), key=lambda line: _order(line.row)),
        **counts,
    )


_COUNTS = ("seconds", "accepted", "lost", "doubled", "poisoned", "wrong", "stale", "runs")


def as_markdown(report: Report) -> str:
    """The table and what belongs under it."""
    head = "| row | fault | tries | lost | doubled | poisoned | recovery p50 | p95 | max | slowest create |"
    ruler = "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    kills = ", ".join(f"{name} {count}" for name, count in sorted(report.kills.items()))
    ended = ", ".join(f"{count} {status}" for status, count in sorted(report.ended.items()))
    runs = f"{report.runs} runs, " if report.runs > 1 else ""
    return "\n".join(
        [
            f"{report.machine}; {runs}{report.seconds / 60:.1f} minutes; {report.date}; {report.commit}",
            "",
            head,
            ruler,
            *(_row(line) for line in report.lines),
            "",
            f"accepted {report.accepted} ({ended}); lost {report.lost}, doubled {report.doubled}, "
            f"innocent poisoned {report.poisoned}, wrong {report.wrong}, without a live lease {report.stale}",
            "",
            f"kills: {sum(report.kills.values())} ({kills})",
        ]
    )


def write(report: Report, path: Path) -> None:
    """Keep it as JSON."""
    path.write_text(json.dumps(asdict(report), indent=1) + "\n")


def read(path: Path) -> Report:
    """One that was kept."""
    kept: dict[str, Any] = json.loads(path.read_text())
    lines = [Line(**line) for line in kept.pop("lines")]
    return Report(lines=lines, **kept)


def _row(line: Line) -> str:
    times = ["-", "-", "-"]
    if line.seconds:
        found = (percentile(line.seconds, 0.5), percentile(line.seconds, 0.95), max(line.seconds))
        times = [f"{seconds:.1f} s" for seconds in found]
    if line.unrecovered:
        times[-1] += f", {line.unrecovered} never"
    slowest = f"{max(line.slowest):.2f} s" if line.slowest else "-"
    cells = (line.row, line.fault, line.tries, line.lost, line.doubled, line.poisoned, *times, slowest)
    return f"| {' | '.join(map(str, cells))} |"


def _order(row: str) -> tuple[int, str]:
    first = row.split(",")[0]
    return (int(first) if first.isdigit() else 99, row)


def _added(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _once(texts: Any) -> str:
    return ", ".join(dict.fromkeys(texts))


def _machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no commit"
