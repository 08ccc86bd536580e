"""What answers to each name. Any thread may ask: the table is replaced, never changed."""

import threading
from collections.abc import Collection, Mapping

from worker.lanes import Lane, Served


class Names:
    """The names that can be served at once, or as soon as their lane is loaded."""

    def __init__(self) -> None:
        self.served: Mapping[str, Served] = {}
        self._lock = threading.Lock()  # for whoever replaces it

    def of(self, lane: Lane) -> list[str]:
        """Those that a lane answers to: its own, and its adapters'."""
        return [name for name, served in self.served.items() if served.lane is lane]

    def add(self, served: Mapping[str, Served]) -> None:
        """Let these be served, too."""
        with self._lock:
            self.served = {**self.served, **served}

    def remove(self, names: Collection[str]) -> None:
        """Let these be served no more; who is in a batch already stays there."""
        with self._lock:
            self.served = {name: served for name, served in self.served.items() if name not in names}
