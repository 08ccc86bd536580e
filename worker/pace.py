"""Says how many prompt rows a step can take before those who are talking feel it."""

from collections import defaultdict, deque
from functools import partial
from statistics import median_low

STRETCH = 1.7  # a step with prompt rows may last so many times one without; 2 is the promise
LEAST = 8  # rows that always go along: a prompt must get on, and so few cost hardly more than one
CURIOUS = 8  # rows more than were ever tried: beyond some number each row costs, where the first ones did not
RECENT = 3  # measurements; the least of them, or the middle one, is hardly a hiccup of the machine
DEARER, CHEAPER = 0.5, 0.25  # weight of what a row costs now: dear rows hurt, so they are believed sooner
PATIENCE = 16  # steps with prompt rows in a row; then one without, or nobody would know what that costs now


class Pace:
    """Learns what a step costs without prompt rows, and what each of these adds. Seconds throughout.

    Steps without prompt rows are kept apart by how many sequences talked in them; a number that was never
    seen costs what the next smaller one does. What a row adds is its share of all that prompt rows added to
    a step, the fixed part too: with more of them a row looks cheaper, until a step lasts as long as it may.
    """

    def __init__(self) -> None:
        recent = partial(deque[float], maxlen=RECENT)
        self._alone: defaultdict[int, deque[float]] = defaultdict(recent)  # by talking sequences
        self._rows = recent()  # what a prompt row added
        self._row = 0.0  # what it adds in the long run: an exponentially weighted mean
        self._tried = LEAST  # the most prompt rows in a step so far
        self._crowded = 0  # steps with prompt rows since the last without

    def learn(self, seconds: float, talking: int, load: int) -> None:
        """A step lasted so long with so many sequences talking, and so many prompt rows beside them."""
        if not load:
            alone = self._alone[talking]
            alone.append(seconds)
            if len(alone) > 1:  # one could be a hiccup, and would let in too much
                self._crowded = 0
        elif talking and self._alone:
            self._rows.append(max(0.0, seconds - self._cost(talking)) / load)
            row = median_low(self._rows)
            self._row += (DEARER if row > self._row else CHEAPER) * (row - self._row)
            self._tried = max(self._tried, load)
            self._crowded += 1

    def load(self, talking: int, most: int) -> int:
        """How many prompt rows the next step can take, `most` where nobody talks or nothing is known yet."""
        if not talking or not self._alone:
            return most
        if self._crowded >= PATIENCE:
            return 0
        room = self._tried + CURIOUS
        if self._row:
            room = min(room, int((STRETCH - 1) * self._cost(talking) / self._row))
        return min(most, max(LEAST, room))

    def _cost(self, talking: int) -> float:
        nearest = max((seen for seen in self._alone if seen <= talking), default=min(self._alone))
        return min(self._alone[nearest])
