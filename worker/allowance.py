"""How many of an engine's slots may be used: half after the device had no room, slowly all of them again."""

from worker.meter import NO_ROOM
from worker.pace import LEAST

GOOD_PASSES = 32
"""With every slot in use that may be; after so many there is one more."""


class Allowance:
    """Of `slots` slots and passes of up to `rows` rows."""

    def __init__(self, slots: int, rows: int) -> None:
        self._slots, self._rows = slots, rows
        self._good = 0
        self.slots = slots  # that may be used now

    @property
    def rows(self) -> int:
        """The most rows of a pass: as many fewer as there are fewer slots."""
        return min(self._rows, max(self.slots + LEAST, self._rows * self.slots // self._slots))

    def halve(self, used: int) -> bool:
        """A pass with so many slots in use had no room; returns whether less can be tried."""
        self._good = 0
        NO_ROOM.inc()
        if self.slots == 1:
            return False
        self.slots = max(1, min(self.slots, used) // 2)
        return True

    def learn(self, used: int) -> None:
        """A pass with so many slots in use went well."""
        if self.slots == self._slots or used < self.slots:
            return
        self._good += 1
        if self._good == GOOD_PASSES:
            self._good = 0
            self.slots += 1
