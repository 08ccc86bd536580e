"""The only holder of keys and values on a GPU: a slot's positions lie one after the other."""

import torch
from torch import Tensor


class CudaCache:
    """Keys and values of `slots` sequences, [layers, 2, slots, heads, context + 1, width].

    What rows of nobody leave goes to each slot's last position, which nobody reads.
    """

    def __init__(
        self, layers: int, slots: int, heads: int, context: int, width: int, dtype: torch.dtype, device: str
    ) -> None:
        self.dtype, self.nowhere = dtype, context
        self._kept = torch.zeros(layers, 2, slots, heads, context + 1, width, dtype=dtype, device=device)

    def keep(self, layer: int, keys_values: Tensor, slots: Tensor, positions: Tensor) -> None:
        """Write the rows' keys and values, [rows, 2, heads, width]."""
        by_row = self._kept[layer].permute(1, 3, 0, 2, 4)
        by_row.index_put_((slots, positions), keys_values.to(self.dtype))

    def first(self, layer: int, count: int, context: int) -> tuple[Tensor, Tensor]:
        """Views of the first slots' keys and values, [count, heads, context, width] each."""
        keys, values = self._kept[layer, :, :count, :, :context]
        return keys, values

    def some(self, layer: int, slots: Tensor, context: int) -> tuple[Tensor, Tensor]:
        """Copies of some slots' keys and values, [slots, heads, context, width] each."""
        keys, values = self._kept[layer, :, :, :, :context].index_select(1, slots)
        return keys, values

    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
        """Give slot moves[i][1] the first positions[i] positions of slot moves[i][0], all as if at once."""
        taken = [
            self._kept[:, :, source, :, :count].clone()
            for (source, _), count in zip(moves, positions, strict=True)
        ]
        for (_, target), count, kept in zip(moves, positions, taken, strict=True):
            self._kept[:, :, target, :, :count] = kept

    def clear(self, slot: int) -> None:
        """Zero a slot. Needed after NaN only: what is masked is multiplied by zero, and 0 x NaN is NaN."""
        self._kept[:, :, slot].zero_()
