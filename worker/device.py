"""The thread that owns the device: it steps every engine in turn, and nothing else touches a tensor."""

import threading
from collections.abc import Callable, Mapping

import structlog

from worker.lanes import Lane
from worker.sequence import Sequence

log = structlog.get_logger(__name__)


class Device:
    """Steps whoever has work; sleeps when nobody has."""

    def __init__(self, busy: threading.Event) -> None:
        self._busy = busy
        self._stopped = threading.Event()

    def run(
        self,
        lanes: Mapping[str, Lane],
        finished: Callable[[Sequence], None],
        failed: Callable[[Lane, BaseException], None],
    ) -> None:
        """Step until `stop`. What an engine raises ends its jobs, not the thread."""
        while not self._stopped.is_set():
            self._busy.clear()
            turns = [self._step(lane, finished, failed) for lane in list(lanes.values())]
            if not any(turns):
                self._busy.wait()

    def stop(self) -> None:
        """End `run` after its current step."""
        self._stopped.set()
        self._busy.set()

    def _step(
        self,
        lane: Lane,
        finished: Callable[[Sequence], None],
        failed: Callable[[Lane, BaseException], None],
    ) -> bool:
        """One turn of one engine; return whether it had anything to do."""
        if lane.engine.idle:
            return False
        try:
            for sequence in lane.engine.step():
                finished(sequence)
        except Exception as error:  # nobody else would hear of it
            log.exception("step failed", model=lane.name)
            lane.engine.abandon()
            failed(lane, error)
        return True
