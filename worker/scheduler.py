"""Who waits, who runs in which slot, and whose rows make the next pass. Holds no tensor."""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.rows import Chunk, Rows
from worker.sequence import Sequence


@dataclass
class Turn:
    """Whose rows make a pass, and who gets a token out of it, in the order of `rows.wanted`."""

    rows: Rows = field(default_factory=Rows)
    due: list[Sequence] = field(default_factory=list)


class Scheduler:
    """First come, first served, over fixed slots."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, int] = {}  # to its slot, in the order of arrival
        self._free = list(range(slots))  # a heap: low slots first keeps the batch dense

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue newcomers."""
        self.waiting.extend(sequences)

    def admit(self) -> None:
        """Give free slots to those who have waited longest."""
        while self.waiting and self._free:
            self.running[self.waiting.popleft()] = heapq.heappop(self._free)

    def remove(self, sequence: Sequence) -> int | None:
        """Let a sequence leave; returns the slot that it held, if it ran."""
        slot = self.running.pop(sequence, None)
        if slot is not None:
            heapq.heappush(self._free, slot)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        return slot

    def gather(self, budget: int) -> Turn:
        """The rows of the next pass, at most `budget`, which is larger than the number of slots."""
        turn = Turn()
        prefilling = self._add_next_tokens(turn)
        for sequence in prefilling:
            room = budget - len(turn.rows.tokens)
            if room <= 0:
                break
            _add_chunk(turn, sequence, self.running[sequence], room)
        return turn

    def _add_next_tokens(self, turn: Turn) -> list[Sequence]:
        """Add a row for each sequence that has said something; returns the others."""
        decoding = sorted((slot, sequence) for sequence, slot in self.running.items() if sequence.tokens)
        rows = turn.rows
        for slot, sequence in decoding:
            rows.tokens.append(sequence.tokens[-1])
            rows.slots.append(slot)
            rows.positions.append(sequence.cached)
            turn.due.append(sequence)
            sequence.cached += 1
        rows.decodes = len(decoding)
        rows.wanted.extend(range(rows.decodes))
        return [sequence for sequence in self.running if not sequence.tokens]


def _add_chunk(turn: Turn, sequence: Sequence, slot: int, room: int) -> None:
    """Add as much of a prompt as there is room for; its last row is due for the first token."""
    rows, start = turn.rows, sequence.cached
    end = min(len(sequence.prompt), start + room)
    rows.chunks.append(Chunk(slot, row=len(rows.tokens), start=start, count=end - start))
    rows.tokens.extend(sequence.prompt[start:end])
    rows.slots.extend([slot] * (end - start))
    rows.positions.extend(range(start, end))
    sequence.cached = end
    if end == len(sequence.prompt):
        turn.due.append(sequence)
        rows.wanted.append(len(rows.tokens) - 1)
