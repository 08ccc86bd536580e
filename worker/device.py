"""The thread that owns the device: it steps the models by turns, and nothing else touches a tensor."""

import threading
import time
from collections.abc import Callable, Collection

import structlog

from jobs.errors import OutOfMemory
from worker.breakdown import is_device_lost, is_out_of_memory
from worker.lanes import Lane
from worker.residents import Residents
from worker.sequence import Sequence

log = structlog.get_logger(__name__)


class Turns:
    """Whose turn it is: of those with work, the one that had the device for the shortest time.

    Equal shares of time, not of steps: a large model's step takes as long as many of a small one's.
    """

    def __init__(self) -> None:
        self._had: dict[Lane, float] = {}  # seconds
        self._working: set[Lane] = set()  # last time

    def next(self, working: Collection[Lane]) -> Lane:
        """The one to step. Who comes back from a rest keeps its debt, and has saved nothing up."""
        stayed = [self._had[lane] for lane in working if lane in self._working]
        if not stayed:
            self._had.clear()
        for lane in working:
            if lane not in self._working:
                self._had[lane] = max(self._had.get(lane, 0.0), min(stayed, default=0.0))
        self._working = set(working)
        return min(working, key=self._had.__getitem__)

    def charge(self, lane: Lane, seconds: float) -> None:
        """It had the device for so long."""
        self._had[lane] += seconds


class Device:
    """Steps whoever has work; sleeps when nobody has."""

    def __init__(self, busy: threading.Event) -> None:
        self._busy = busy
        self._stopped = threading.Event()
        self.turns = 0  # of `run`; whoever watches for a hang looks at this

    def run(
        self,
        residents: Residents,
        left: Callable[[Sequence], None],
        failed: Callable[[Lane, BaseException], None],
    ) -> None:
        """Step until `stop`. `left` hears of every sequence that ended or was dropped, its slot free.

        What an engine raises ends its jobs, not the thread; unless it says that the device itself is lost.
        """
        turns = Turns()
        while not self._stopped.is_set():
            self.turns += 1
            self._busy.clear()
            residents.release()
            loaded = residents.loaded
            for lane in loaded:  # of all, or a drop would wait for its model's turn
                _attempt(lane, lane.let_go, left, failed)
            working = [lane for lane in loaded if not lane.idle]
            if not working:
                self._busy.wait()
                continue
            lane = turns.next(working)
            began = time.monotonic()
            _attempt(lane, lane.step, left, failed)
            turns.charge(lane, time.monotonic() - began)

    def pulse(self, residents: Residents) -> object:
        """Another number at every turn; None while there is nothing to do, or a model is being loaded."""
        if residents.loading is not None or all(lane.idle for lane in residents.loaded):
            return None
        return self.turns

    def stop(self) -> None:
        """End `run` after its current step."""
        self._stopped.set()
        self._busy.set()


def _attempt(
    lane: Lane,
    act: Callable[[], list[Sequence]],
    left: Callable[[Sequence], None],
    failed: Callable[[Lane, BaseException], None],
) -> None:
    try:
        for sequence in act():
            left(sequence)
    except Exception as error:  # nobody else would hear of it
        log.exception("step failed", model=lane.source.name)
        if is_device_lost(error):
            raise  # whoever ends the process hands its jobs up
        lane.abandon()
        failed(lane, OutOfMemory("The device had no room.") if is_out_of_memory(error) else error)
