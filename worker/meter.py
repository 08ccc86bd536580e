"""What the steps of the lanes come to: tokens, seconds, and how long newcomers wait for a first token."""

import time
from collections.abc import Collection, Iterable
from collections.abc import Sequence as Many
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from jobs.errors import OutOfMemory
from worker.sequence import Sequence

_STEP_BUCKETS = tuple(0.001 * 2**power for power in range(13))  # 1 ms to 4 s
_PREFILL_BUCKETS = tuple(0.005 * 2**power for power in range(14))  # 5 ms to 41 s

_SLOTS = Gauge("penstock_slots", "Slots of the models that are loaded.")
_RUNNING_SLOTS = Gauge("penstock_running_slots", "Slots that a sequence has or is about to get.")
_TOKENS = Counter("penstock_tokens", "Tokens that were generated.")
_STEP = Histogram("penstock_step_seconds", "One token for everybody in a batch.", buckets=_STEP_BUCKETS)
_PREFILL = Histogram(
    "penstock_prefill_seconds",
    "From a sequence's arrival at its model to its first token; observed at its end.",
    buckets=_PREFILL_BUCKETS,
)
_OUT_OF_MEMORY = Counter("penstock_out_of_memory", "Sequences that failed for want of room on the device.")
NO_ROOM = Counter(
    "penstock_halved_slots", "Passes that the device had no room for: tried again with half the slots."
)
_GIVEN_UP = Counter(
    "penstock_worker_given_up", "Times that a worker of this folder hung or broke, and ended itself."
)


class Batch(Protocol):
    """What `watch` needs of a lane."""

    @property
    def slots(self) -> int:
        """How many sequences may run at once."""

    @property
    def held(self) -> int:
        """How many of them somebody has, or is about to get."""


class Batches(Protocol):
    """What `watch` needs of the residents."""

    @property
    def loaded(self) -> Many[Batch]:
        """The lanes that can step."""


def watch(batches: Batches) -> None:
    """From now on show how many slots these have; they are counted when somebody asks."""
    _SLOTS.set_function(lambda: sum(batch.slots for batch in batches.loaded))
    _RUNNING_SLOTS.set_function(lambda: sum(batch.held for batch in batches.loaded))


class Ends:
    """The ends that the workers of a folder put to themselves: the next one tells, as the dead cannot."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "given-up"
        _GIVEN_UP.inc(self._read())

    def add(self) -> None:
        """Count this process's end, which comes now."""
        with suppress(OSError):  # a full disk shall not keep it alive
            self._file.write_text(str(self._read() + 1))

    def _read(self) -> int:
        try:
            return int(self._file.read_text())
        except (FileNotFoundError, ValueError):  # none yet, or the disk was full
            return 0


class Meter:
    """Of one lane. Its lane calls it under a lock, for the numbers of a step are read from who is present."""

    def __init__(self) -> None:
        self._counted = 0  # tokens of those who are present
        self._joined: dict[Sequence, float] = {}  # time.monotonic()

    def welcome(self, sequences: Iterable[Sequence]) -> None:
        """These have come, and have said nothing yet."""
        now = time.monotonic()
        for sequence in sequences:
            self._joined[sequence] = now

    def stepped(self, seconds: float, present: Collection[Sequence], leaving: Collection[Sequence]) -> None:
        """A step has taken so long; those who leave after it are still among the `present`."""
        said = sum(len(sequence.tokens) for sequence in present)
        _STEP.observe(seconds)
        _TOKENS.inc(max(0, said - self._counted))
        for sequence in leaving:
            said -= len(sequence.tokens) if sequence in present else 0
            self._left(sequence)
        self._counted = said

    def let_go(self, leaving: Collection[Sequence]) -> None:
        """These have left between two steps."""
        for sequence in leaving:
            self._counted -= len(sequence.tokens)
            self._left(sequence)

    def emptied(self) -> None:
        """Everybody was let go as they were."""
        self._counted = 0
        self._joined.clear()

    def _left(self, sequence: Sequence) -> None:
        joined = self._joined.pop(sequence, None)
        if joined is not None and sequence.first_token_at is not None:
            _PREFILL.observe(max(0.0, sequence.first_token_at - joined))
        if isinstance(sequence.error, OutOfMemory):
            _OUT_OF_MEMORY.inc()
