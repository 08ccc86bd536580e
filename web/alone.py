"""A chore that works in one thread of the clerk at a time, or a slow one would take those of all chores."""

import threading
from collections.abc import Callable


class Alone:
    """Work that a bell asks for; whoever rings while it goes on lets it look once more, and does not wait."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._bell = threading.Event()
        self._busy = threading.Lock()

    def rung(self) -> None:
        """There may be work: do it, unless another thread is at it."""
        self._bell.set()
        while self._bell.is_set() and self._busy.acquire(blocking=False):
            try:
                self._bell.clear()
                self._work()
            finally:
                self._busy.release()
