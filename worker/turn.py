"""One pass being put together: its rows, who is due for a token out of it, and what is copied before it."""

from dataclasses import dataclass, field

from worker.echo import Echo, is_echoed
from worker.rows import Rows
from worker.sequence import Sequence


@dataclass
class Turn:
    """The rows of a pass and what they are for. A due sequence has a token from its wanted row on."""

    rows: Rows = field(default_factory=Rows)
    due: list[Sequence] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of each due one's (first) row among the wanted
    drafts: dict[Sequence, list[int]] = field(default_factory=dict)  # guesses that follow a due one's row
    echoes: list[Echo] = field(default_factory=list)
    moves: list[tuple[int, int]] = field(default_factory=list)  # slots copied before the pass: from, to
    lengths: list[int] = field(default_factory=list)  # positions of each move
    load: int = 0  # prompt rows, and what the copies cost in such rows

    def add_next_tokens(self, talking: list[Sequence], slots: list[int], adapters: list[int]) -> None:
        """Begin with a row for each of those who have said something, in the order of their slots."""
        rows = self.rows
        for sequence in talking:
            rows.tokens.append(sequence.tokens[-1])
            rows.positions.append(sequence.cached)
            sequence.cached += 1
        rows.slots = slots.copy()
        if any(adapter >= 0 for adapter in adapters):
            rows.adapters = adapters.copy()
        rows.decodes = len(slots)
        self.due = talking.copy()
        rows.wanted = list(range(rows.decodes))
        self.places = rows.wanted.copy()

    def add_prompt(self, sequence: Sequence, slot: int, count: int) -> None:
        """Add the next `count` rows of what a sequence reads; the last one is due for the next token."""
        start, wanted = sequence.cached, self.rows.wanted
        end = sequence.cached = start + count
        prompt = sequence.script
        rows = self._add_chunk(sequence, slot, start, prompt[start:end])
        self.load += count
        if is_echoed(sequence):
            self.echoes.append(Echo(sequence, len(wanted), prompt[start + 1 : end + 1]))
            wanted.extend(rows)
        elif end == len(prompt):
            wanted.append(rows[-1])
        if end == len(prompt):
            self.due.append(sequence)
            self.places.append(len(wanted) - 1)

    def add_draft(self, sequence: Sequence, slot: int, draft: list[int]) -> None:
        """Add a sequence's next token and what it may say afterwards; all of these rows are wanted."""
        wanted = self.rows.wanted
        self.due.append(sequence)
        self.places.append(len(wanted))
        self.drafts[sequence] = draft
        wanted.extend(self._add_chunk(sequence, slot, sequence.cached, [sequence.tokens[-1], *draft]))

    def _add_chunk(self, sequence: Sequence, slot: int, start: int, tokens: list[int]) -> range:
        added, adapters = self.rows.add_chunk(slot, start, tokens), self.rows.adapters
        if adapters or sequence.adapter is not None:
            missing = added.start - len(adapters)
            adapters.extend([-1] * missing + [adapter_number(sequence)] * len(added))
        return added


def adapter_number(sequence: Sequence) -> int:
    """As it stands in `Rows.adapters`."""
    return -1 if sequence.adapter is None else sequence.adapter
