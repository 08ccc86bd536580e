"""What serves a name: a lane, which is one model with a batch of its own, and perhaps an adapter over it."""

import threading
import time
import weakref
from collections.abc import Collection
from dataclasses import dataclass

from jobs.catalog import ModelVersion
from jobs.errors import JobError, OutOfMemory
from jobs.failpoints import failpoint
from jobs.settings import ModelSource
from worker import memory
from worker.adapters import Adapter
from worker.breakdown import is_out_of_memory
from worker.engine import Engine
from worker.loading import Description
from worker.memory import Need
from worker.meter import Meter
from worker.sequence import Sequence

MOST_ADAPTERS = 32
"""Of one model at a time; another one waits until a sequence's end lets one of them be forgotten."""


class Lane:
    """One model, loaded or not, and everyone in its batch.

    `start` and `stop` say which; only one that is idle may be stopped, by the thread that also submits.
    `let_go`, `step` and `abandon` are for the thread that owns the device, the rest for any.
    """

    def __init__(
        self, source: ModelSource, description: Description, need: Need, device: str, busy: threading.Event
    ) -> None:
        self.source, self.description, self.need = source, description, need
        self.most_slots = need.slots
        self.device = device  # its name, for receipts
        self.engine: Engine | None = None
        self.path = ""  # what multiplies; known once it was loaded
        self.loaded_at = self.used_at = 0.0  # time.monotonic(); of its last step
        self.wanted_at: float | None = None  # since when jobs wait for it to be loaded
        self.drains = False  # takes no more jobs, so that another model may have its memory
        self._busy = busy  # the device thread's alarm clock, shared by all lanes
        self._lock = threading.Lock()  # over the three below
        self._present: dict[Sequence, Adapter | None] = {}  # submitted and not yet gone
        self._newcomers: list[Sequence] = []  # of those, who is not in the engine yet
        self._dropped: set[Sequence] = set()  # of those, who shall leave
        self._numbers: dict[Adapter, int] = {}  # that the model has, the least recently used first
        self._guests: weakref.WeakSet[Adapter] = weakref.WeakSet()  # that came after it was described
        self._meter = Meter()

    def start(self, engine: Engine, path: str) -> None:
        """The model is loaded."""
        self.path, self.wanted_at = path, None
        self.loaded_at = self.used_at = time.monotonic()
        self._numbers.clear()
        self.engine = engine

    def stop(self) -> Engine:
        """The model shall leave; returns what must be let go on the thread that owns the device."""
        assert self.engine is not None
        engine, self.engine = self.engine, None
        self._numbers.clear()
        return engine

    @property
    def total(self) -> int:
        """Bytes that it takes at most once it is loaded."""
        return self.need.total + self.guest_bytes

    @property
    def guest_bytes(self) -> int:
        """What the adapters take that came after it was described, as long as anybody holds them."""
        with self._lock:
            return memory.adapter_bytes(self._guests)

    def welcome(self, adapter: Adapter) -> None:
        """Count the memory of another adapter."""
        with self._lock:
            self._guests.add(adapter)

    @property
    def idle(self) -> bool:
        """Whether nobody is here."""
        return not self._present

    @property
    def slots(self) -> int:
        """How many sequences its batch may have; none where the model is not loaded."""
        return 0 if (engine := self.engine) is None else engine.slots

    @property
    def held(self) -> int:
        """Slots that somebody has, or is about to get."""
        with self._lock:
            return sum(sequence.sampling.num_beams for sequence in self._present)

    @property
    def free(self) -> int:
        """Slots that nobody holds or waits for; none where the model is not loaded."""
        if (engine := self.engine) is None:
            return 0
        with self._lock:
            waiting = sum(sequence.sampling.num_beams for sequence in self._newcomers)
        return max(0, engine.free - waiting)

    @property
    def steps(self) -> int:
        """Turns done since the model was loaded."""
        engine = self.engine  # read once: it may leave meanwhile
        return engine.steps if engine else 0

    def submit(self, sequences: Collection[Sequence], adapter: Adapter | None) -> None:
        """Let sequences join at the next step that has room; one that does not fit ends with an error."""
        with self._lock:
            for sequence in sequences:
                self._present[sequence] = adapter
                self._newcomers.append(sequence)
            self._meter.welcome(sequences)
        self._busy.set()

    def drop(self, sequence: Sequence) -> None:
        """Let a sequence leave at the next step. One that already left is no matter."""
        with self._lock:
            if sequence in self._present:
                self._dropped.add(sequence)

    def let_go(self) -> list[Sequence]:
        """Let those leave who were dropped; returns them: their slots are free."""
        if not self._dropped:
            return []
        with self._lock:
            dropped, self._dropped = self._dropped, set()
            self._newcomers = [sequence for sequence in self._newcomers if sequence not in dropped]
        if self.engine is not None:
            for sequence in dropped:
                self.engine.drop(sequence)
            self.engine.hear()
        with self._lock:
            left = [sequence for sequence in dropped if sequence in self._present]
            for sequence in left:
                del self._present[sequence]
            self._meter.let_go(left)
        return left

    def step(self) -> list[Sequence]:
        """One turn of the engine; returns those that finished in it, with a text or an error."""
        assert self.engine is not None
        began = time.perf_counter()
        finished = self._admit(self.engine)
        failpoint("in_step")
        finished += self.engine.step()
        with self._lock:
            self._meter.stepped(time.perf_counter() - began, self._present, finished)
            for sequence in finished:
                self._present.pop(sequence, None)
        self.used_at = time.monotonic()
        return finished

    def abandon(self) -> None:
        """Let everyone leave as they are."""
        if self.engine is not None:
            self.engine.abandon()
        with self._lock:
            self._present.clear()
            self._newcomers.clear()
            self._dropped.clear()
            self._meter.emptied()

    def _admit(self, engine: Engine) -> list[Sequence]:
        """Hand newcomers to the engine, each with its adapter's number; returns those it refused."""
        gone: set[Sequence] = set()
        refused = []
        for sequence in list(self._newcomers):
            try:
                if not self._adapt(engine, sequence):
                    break  # nor those behind it, or it could wait for ever
                failpoint("before_first_token")
                engine.submit(sequence)
            except JobError as error:
                sequence.error, sequence.finished_at = error, time.monotonic()
                refused.append(sequence)
            gone.add(sequence)
        if gone:
            with self._lock:  # only now, so that `free` counts each of them all the time
                self._newcomers = [sequence for sequence in self._newcomers if sequence not in gone]
        return refused

    def _adapt(self, engine: Engine, sequence: Sequence) -> bool:
        """Give a sequence its adapter's number; returns whether the model has it."""
        adapter = self._present[sequence]
        if adapter is None:
            return True
        number = self._numbers.pop(adapter, None)
        if number is None:
            if len(self._numbers) >= MOST_ADAPTERS and not self._forget_one(engine):
                return False
            try:
                number = engine.model.adapt(adapter)
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise OutOfMemory("The device had no room for this adapter.") from error
                raise
        self._numbers[adapter] = sequence.adapter = number
        return True

    def _forget_one(self, engine: Engine) -> bool:
        """Make room for another adapter, unless sequences have all of them."""
        with self._lock:
            used = {sequence.adapter for sequence in self._present}  # a newcomer has no number yet
        for adapter, number in self._numbers.items():
            if number not in used:
                del self._numbers[adapter]
                engine.forget(number)
                return True
        return False


@dataclass(frozen=True, eq=False)
class Served:
    """A name that jobs ask for, and what answers to it."""

    version: ModelVersion
    lane: Lane
    adapter: Adapter | None = None
