"""Says how many prompt rows a step can take before those who are talking feel it."""

STRETCH = 1.7  # a step with prompt rows may last so many times one without; 2 is the promise
LEAST = 8  # rows that always go along: a prompt must get on, and so few cost hardly more than one
CURIOUS = 8  # rows more than were ever tried: beyond some number each row costs, where the first ones did not
RECENT = 0.25  # weight of the newest measurement
DEARER, CHEAPER = 0.5, 0.1  # likewise, of what a row costs: dear rows hurt, so they are believed at once
HICCUP = 2.0  # times what was expected: more than that is the machine's doing, and counts as so much


class Pace:
    """Learns what a step costs without prompt rows, and what each of these adds. Seconds throughout.

    Exponentially weighted means. Steps without prompt rows are kept apart by how many sequences talked in
    them; a number that was never seen costs what the next smaller one does, and as many prompt rows.
    """

    def __init__(self) -> None:
        self._alone: dict[int, float] = {}  # by talking sequences: a step without prompt rows
        self._row = 0.0  # what a prompt row adds
        self._tried = LEAST  # the most prompt rows in a step so far

    def learn(self, seconds: float, talking: int, load: int) -> None:
        """A step lasted so long with so many sequences talking, and so many prompt rows beside them."""
        if not load:
            known = self._alone.get(talking, seconds)
            self._alone[talking] = known + RECENT * (min(seconds, HICCUP * known) - known)
        elif talking and self._alone:
            expected = self._cost(talking) + load * self._row
            row = max(0.0, min(seconds, HICCUP * expected) - self._cost(talking)) / load
            self._row += (DEARER if row > self._row else CHEAPER) * (row - self._row)
            self._tried = max(self._tried, load)

    def load(self, talking: int, most: int) -> int:
        """How many prompt rows the next step can take, `most` where nobody talks or nothing is known yet."""
        if not talking or not self._alone:
            return most
        room = self._tried + CURIOUS
        if self._row:
            room = min(room, int((STRETCH - 1) * self._cost(talking) / self._row))
        return min(most, max(LEAST, room))

    def _cost(self, talking: int) -> float:
        known = self._alone.get(talking)
        if known is not None:
            return known
        nearest = max((seen for seen in self._alone if seen < talking), default=min(self._alone))
        return self._alone[nearest] + max(0, talking - nearest) * self._row
