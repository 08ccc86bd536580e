"""Lays the rows of a pass out as the integers that a recorded shape takes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.cuda.shapes import PIECE, PIECES, Shape, Shapes
from worker.rows import Chunk, Rows


@dataclass(frozen=True)
class Layout:
    """One shape's pass; the wanted rows come out in the order of `Rows.wanted`."""

    shape: Shape
    packed: NDArray[np.int64]  # as `Shape.split` takes it apart
    wanted: int  # how many of the shape's wanted rows somebody wants
    adapters: list[int]  # of each of the shape's rows, -1: none; empty where nobody has one


def lay_out(rows: Rows, shapes: Shapes) -> Iterator[Layout]:
    """The passes that do what is asked, to be run in this order; one unless there are many prompts."""
    cut = list(_pieces(rows.chunks))
    most = PIECES[-1]
    yield _layout(rows, rows.decodes, cut[:most], shapes)
    for start in range(most, len(cut), most):
        yield _layout(rows, 0, cut[start : start + most], shapes)


def _pieces(chunks: list[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        for done in range(0, chunk.count, PIECE):
            count = min(PIECE, chunk.count - done)
            yield Chunk(chunk.slot, chunk.row + done, chunk.start + done, count)


def _layout(rows: Rows, decodes: int, pieces: list[Chunk], shapes: Shapes) -> Layout:
    # rows that take part, ascending, and where each stands in the shape
    taken = np.concatenate([np.arange(decodes), *(piece.row + np.arange(piece.count) for piece in pieces)])
    wanted = np.intersect1d(np.array(rows.wanted, np.int64), taken, assume_unique=True)
    positions = np.array(rows.positions, np.int64)[taken]
    slots = rows.slots[:decodes]
    shape = shapes.choose(max(slots, default=-1) + 1, len(pieces), int(positions.max()) + 1, len(wanted))
    starts = shape.singles + PIECE * np.arange(len(pieces))
    places = np.concatenate([
        np.array(slots, np.int64),
        *(start + np.arange(piece.count) for start, piece in zip(starts, pieces, strict=True)),
    ])  # fmt: skip
    packed = np.zeros(shape.numbers, np.int64)
    its_tokens, its_positions, its_slots, its_wanted = shape.split(packed)
    its_tokens[places] = np.array(rows.tokens, np.int64)[taken]
    its_positions[:] = -1
    its_positions[places] = positions
    its_slots[: len(pieces)] = [piece.slot for piece in pieces]
    its_wanted[: len(wanted)] = places[np.searchsorted(taken, wanted)]
    adapters: list[int] = []
    if rows.adapters:
        every = np.full(shape.rows, -1)
        every[places] = np.array(rows.adapters)[taken]
        adapters = every.tolist()
    return Layout(shape, packed, len(wanted), adapters)
