"""For how long a part of the process has not moved."""

import time
from collections.abc import Callable

Pulse = Callable[[], object]
"""What is another value whenever something has moved, and None while it rests."""


class Stillness:
    """For how long something has not moved, as far as it was looked at.

    Of the time between two looks at most `most` seconds count: where it is longer, the whole process was
    stopped, and whoever watches as well.
    """

    def __init__(self, pulse: Pulse, most: float) -> None:
        self._pulse, self._most = pulse, most
        self._last: object = None
        self._looked_at = time.monotonic()
        self._seconds = 0.0

    def look(self) -> float:
        """Seconds."""
        now, pulse = time.monotonic(), self._pulse()
        moved = pulse is None or pulse != self._last
        self._seconds = 0.0 if moved else self._seconds + min(self._most, now - self._looked_at)
        self._last, self._looked_at = pulse, now
        return self._seconds
