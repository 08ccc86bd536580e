"""What goes through a model in one pass: the language between the engine and a model."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one slot: `count` rows from `row` on, at positions from `start` on."""

    slot: int
    row: int
    start: int
    count: int


@dataclass
class Rows:
    """One pass, flat: next tokens first, in the order of their slots, then chunks of several rows a slot."""

    tokens: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    adapters: list[int] = field(default_factory=list)  # of each row, -1: none; empty where nobody has one
    decodes: int = 0  # how many rows are next tokens, one a slot
    chunks: list[Chunk] = field(default_factory=list)  # of prompts, and of drafts
    wanted: list[int] = field(default_factory=list)  # the rows whose logits are wanted, ascending

    def add_chunk(self, slot: int, start: int, tokens: list[int]) -> range:
        """Add consecutive rows of one slot, at positions from `start` on; returns which rows they are."""
        rows = range(len(self.tokens), len(self.tokens) + len(tokens))
        self.chunks.append(Chunk(slot, rows.start, start, len(tokens)))
        self.tokens.extend(tokens)
        self.slots.extend([slot] * len(tokens))
        self.positions.extend(range(start, start + len(tokens)))
        return rows
