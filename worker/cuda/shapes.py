"""The only place that decides in which few shapes passes run on a GPU: a graph is recorded for one shape.

A pass has singles, next tokens, where row i is that of slot i so that nothing need be gathered, and pieces
of prompts, each up to PIECE consecutive rows of any slot. Both share every product, so that weights are
read once and a prompt's arrival costs the others little. Rows see `context` positions of their slots.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

PIECE = 64  # rows
CONTEXTS = (128, 256, 512, 1024, 2048, 4096)
SINGLES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
BESIDE = (
    0,
    16,
    64,
    256,
    1024,
)  # singles beside pieces: fewer, since each is another graph for each of PIECES
PIECES = (1, 4, 16)

Numbers = TypeVar("Numbers", Tensor, NDArray[np.int64])


@dataclass(frozen=True)
class Shape:
    """What a recorded pass is fixed to."""

    singles: int
    pieces: int
    context: int
    wanted: int  # rows whose logits are made

    @property
    def rows(self) -> int:
        """All that go through the products."""
        return self.singles + self.pieces * PIECE

    @property
    def numbers(self) -> int:
        """How many integers say what a pass is to do."""
        return 2 * self.rows + self.pieces + self.wanted

    def split(self, packed: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Views of a pass's integers: tokens and positions of rows, slots of pieces, which rows are wanted.

        A position of -1: nobody's row.
        """
        slots = 2 * self.rows
        wanted = slots + self.pieces
        return packed[: self.rows], packed[self.rows : slots], packed[slots:wanted], packed[wanted:]


@dataclass(frozen=True)
class Shapes:
    """Those that passes over so many slots of some context run in, ascending."""

    singles: tuple[int, ...]
    beside: tuple[int, ...]
    contexts: tuple[int, ...]

    @classmethod
    def of(cls, slots: int, context: int) -> Self:
        """The last of each is enough for everything."""
        return cls(_up_to(SINGLES, slots), _up_to(BESIDE, slots), _up_to(CONTEXTS, context))

    def everyone(self) -> list[Shape]:
        """All of them, the largest first: memory that it took is enough for the others."""
        shapes = [
            Shape(singles, pieces, context, singles + pieces)
            for context in self.contexts
            for counts, all_pieces in ((self.singles, (0,)), (self.beside, PIECES))
            for singles in counts
            for pieces in all_pieces
        ]
        return sorted(shapes, key=lambda shape: -shape.rows * shape.context)

    def choose(self, singles: int, pieces: int, length: int, wanted: int) -> Shape:
        """The smallest with room for slots below `singles`, so many pieces, and `length` positions."""
        rows = _least(self.beside if pieces else self.singles, singles)
        pieces = _least(PIECES, pieces) if pieces else 0
        return Shape(rows, pieces, _least(self.contexts, length), max(wanted, rows + pieces))


def _up_to(sizes: tuple[int, ...], most: int) -> tuple[int, ...]:
    return (*(size for size in sizes if size < most), most)


def _least(sizes: tuple[int, ...], count: int) -> int:
    return sizes[bisect_left(sizes, count)]
