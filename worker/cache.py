"""The only holder of keys and values: one fixed slot per sequence, written as rows pass through a layer."""

import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.rows import Rows

SEGMENT = 64
"""Positions that lie together; a line of keys has so many numbers, one for each."""


@dataclass(frozen=True)
class Places:
    """Where the keys and values of a pass's rows go, in every layer."""

    keys: Tensor  # [rows * heads * width] among a layer's numbers
    values: Tensor  # [rows * heads] among its lines of `width` numbers


class Cache:
    """Keys and values of `slots` sequences of up to `context` tokens.

    A layer is [segments, 2, slots, heads, SEGMENT * width]. A segment's keys lie there as `width` lines of
    SEGMENT numbers, its values as SEGMENT lines of `width`: attention adds up whole lines. Memory of a CPU's
    segments that nobody has written costs nothing: the pages are not touched.
    """

    def __init__(
        self, layers: int, slots: int, heads: int, context: int, width: int, dtype: torch.dtype, device: str
    ) -> None:
        self.slots, self.heads, self.width = slots, heads, width
        self.dtype, self.device = dtype, device
        shape = (segments(context), 2, slots, heads, SEGMENT * width)
        self._layers = [_untouched_zeros(shape, dtype, device) for _ in range(layers)]
        self._numbers = [layer.view(-1) for layer in self._layers]
        self.keys = [layer.view(-1, SEGMENT) for layer in self._layers]  # all lines, as keys are kept
        self.values = [layer.view(-1, width) for layer in self._layers]  # all lines, as values are kept
        self._written = [0] * slots  # positions behind it are untouched

    @property
    def slot_bytes(self) -> int:
        """What a full slot takes."""
        return sum(layer.nbytes for layer in self._layers) // max(1, self.slots)

    def places(self, rows: Rows) -> Places:
        """Where the rows' keys and values go."""
        for slot, position in zip(rows.slots, rows.positions, strict=True):
            if position >= self._written[slot]:
                self._written[slot] = position + 1
        slots, positions = (
            torch.tensor(n, device=self.device)[:, None] for n in (rows.slots, rows.positions)
        )
        within = positions % SEGMENT
        heads = torch.arange(self.heads, device=self.device)
        keys, values = self._blocks(slots, heads, positions // SEGMENT)
        lines = keys[..., None] * self.width + torch.arange(self.width, device=self.device)
        return Places((lines * SEGMENT + within[..., None]).flatten(), (values * SEGMENT + within).flatten())

    def keep(self, layer: int, keys: Tensor, values: Tensor, places: Places) -> None:
        """Write the rows' keys and values, each [rows, heads, width] in the cache's type, to `places`."""
        self._numbers[layer].index_copy_(0, places.keys, keys.reshape(-1))
        self.values[layer].index_copy_(0, places.values, values.reshape(-1, self.width))

    def lines(self, slots: Tensor, heads: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Which of `keys` and `values` are those of segments, one after the other, as int32."""
        keys, values = self._blocks(slots, heads, numbers)
        return _consecutive(keys, self.width), _consecutive(values, SEGMENT)

    def _blocks(self, slots: Tensor, heads: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Where the keys and the values of segments are, in segments of one head."""
        keys = (numbers * (2 * self.slots) + slots) * self.heads + heads
        return keys, keys + self.slots * self.heads

    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
        """Give slot moves[i][1] the first positions[i] positions of slot moves[i][0], all as if at once."""
        moved = [(*move, count) for move, count in zip(moves, positions, strict=True) if move[0] != move[1]]
        for layer in self._layers:
            taken = [layer[: segments(count), :, source].clone() for source, _, count in moved]
            for (_, target, count), kept in zip(moved, taken, strict=True):
                layer[: segments(count), :, target] = kept
        for _, target, count in moved:
            self._written[target] = max(self._written[target], count)

    def clear(self, slot: int) -> None:
        """Zero a slot. Needed after NaN only: what is masked is multiplied by zero, and 0 x NaN is NaN."""
        for layer in self._layers:
            layer[: segments(self._written[slot]), :, slot].zero_()
        self._written[slot] = 0


def segments(length: int) -> int:
    """How many hold so many positions."""
    return -(-length // SEGMENT)


def _consecutive(blocks: Tensor, lines: int) -> Tensor:
    """All lines of blocks of so many, as int32: `embedding_bag` reads half the bytes."""
    return (
        blocks.int()[:, None] * lines + torch.arange(lines, dtype=torch.int32, device=blocks.device)
    ).flatten()


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros; on a CPU the system maps each small page on first use, where `torch.zeros` writes all."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would span many positions that nobody uses
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
