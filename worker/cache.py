"""The only holder of keys and values: one fixed slot per sequence, written as rows pass through a layer."""

import math
import mmap
import threading

import torch
from torch import Tensor

from worker.rows import Rows

SEGMENT = 64
"""Positions that lie together, and whose products are added in one go."""


class Cache:
    """Keys and values of `slots` sequences of up to `context` tokens.

    A layer is [segments, 2, slots, heads, SEGMENT, width]. Memory of a CPU's positions that nobody has
    written costs nothing: the pages are not touched.
    """

    def __init__(
        self, layers: int, slots: int, heads: int, context: int, width: int, dtype: torch.dtype, device: str
    ) -> None:
        self.slots, self.heads, self.width = slots, heads, width
        self.dtype, self.device = dtype, device
        shape = (segments(context), 2, slots, heads, SEGMENT, width)
        self._layers = [_untouched_zeros(shape, dtype, device) for _ in range(layers)]
        self._copies = threading.local()
        self._written = [0] * slots  # positions behind it are untouched

    @property
    def slot_bytes(self) -> int:
        """What a full slot takes."""
        return sum(layer.nbytes for layer in self._layers) // max(1, self.slots)

    def places(self, rows: Rows) -> Tensor:
        """Where the rows' keys and values go, [rows * 2 * heads] among a layer's vectors."""
        for slot, position in zip(rows.slots, rows.positions, strict=True):
            if position >= self._written[slot]:
                self._written[slot] = position + 1
        slots = torch.tensor(rows.slots, device=self.device)[:, None, None]
        positions = torch.tensor(rows.positions, device=self.device)[:, None, None]
        halves = torch.arange(2, device=self.device)[:, None]
        heads = torch.arange(self.heads, device=self.device)
        lines = ((positions // SEGMENT * 2 + halves) * self.slots + slots) * self.heads + heads
        return (lines * SEGMENT + positions % SEGMENT).flatten()

    def keep(self, layer: int, keys_values: Tensor, places: Tensor) -> None:
        """Write the rows' keys and values, [rows, 2, heads, width], where `places` says."""
        new = keys_values.to(self.dtype).reshape(-1, self.width)
        self._layers[layer].view(-1, self.width).index_copy_(0, places, new)

    def lines(self, slots: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Where the keys and the values of segments are, for `read`."""
        keys = numbers * (2 * self.slots) + slots
        return keys, keys + self.slots

    def read(self, layer: int, lines: Tensor) -> Tensor:
        """A copy of keys or values, [lines * heads, SEGMENT, width]: products read main memory slowly.

        Good until the thread's next one: fresh memory of that size is given by the system, page by page.
        """
        stored = self._layers[layer].view(-1, self.heads * SEGMENT * self.width)
        return stored.index_select(0, lines).view(-1, SEGMENT, self.width)

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


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros; on a CPU the system maps each small page on first use, where `torch.zeros` writes all."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would span many positions that nobody uses
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
