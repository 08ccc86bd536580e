"""The only holder of keys and values: one fixed slot per sequence, and attention over the slots."""

import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from worker.rows import Chunk, Rows

# A row must have the same bits whatever its neighbours' lengths and wherever its prompt was cut. So lengths
# are rounded up, and sums over more positions than a matrix product adds in one go are cut at fixed places.
KEYS, QUERIES, SUMMED = 128, 32, 256


@dataclass(frozen=True)
class Decode:
    """The next-token rows of a pass: the slots they read, and who sees which position there."""

    count: int  # rows
    slots: slice | Tensor  # slots read
    places: Tensor | None  # [count] where each row stands among the slots read; None when row by row
    mask: Tensor  # [slots read, 1, 1, positions read]


@dataclass(frozen=True)
class Plan:
    """Where the rows of one pass write and what they see; the same for every layer."""

    where: Tensor  # [rows * heads] places in a layer's keys, seen as [slots * heads * context, head width]
    decode: Decode | None
    prefills: list[tuple[Chunk, Tensor]]  # each with its mask [queries, length]


class Cache:
    """Keys and values of `slots` sequences of up to `context` tokens.

    Memory of a CPU's positions that nobody has written costs nothing: the pages are not touched.
    """

    def __init__(
        self, layers: int, slots: int, heads: int, context: int, width: int, dtype: torch.dtype, device: str
    ) -> None:
        context = _rounded(context)
        self.heads, self.context, self.width = heads, context, width
        # torch has no fast 16-bit attention on a CPU
        self.dtype = torch.float32 if device == "cpu" else dtype
        self.device = device
        shape = (slots, heads, context, width)
        self._keys = [_untouched_zeros(shape, self.dtype, device) for _ in range(layers)]
        self._values = [_untouched_zeros(shape, self.dtype, device) for _ in range(layers)]

    def clear(self, slot: int) -> None:
        """Zero a slot. Needed after NaN only: what is masked is multiplied by zero, and 0 x NaN is NaN."""
        for layer in (*self._keys, *self._values):
            layer[slot].zero_()

    def plan(self, rows: Rows) -> Plan:
        """What all layers need to know about a pass."""
        slots = torch.tensor(rows.slots, device=self.device)
        positions = torch.tensor(rows.positions, device=self.device)
        heads = torch.arange(self.heads, device=self.device)
        where = (slots[:, None] * self.heads + heads) * self.context + positions[:, None]
        decode = self._plan_decode(slots, positions, rows) if rows.decodes else None
        return Plan(where.flatten(), decode, [(chunk, self._prefill_mask(chunk)) for chunk in rows.chunks])

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float
    ) -> Tensor:
        """Keep the rows' keys and values, then let each row look back. All [rows, heads, width]."""
        keys, values = self._keys[layer], self._values[layer]
        for kept, new in ((keys, key), (values, value)):
            kept.view(-1, self.width).index_copy_(0, plan.where, new.to(self.dtype).reshape(-1, self.width))
        query = query.to(self.dtype)
        seen = []
        if plan.decode is not None:
            seen.append(_decode(query[: plan.decode.count], keys, values, plan.decode, scale))
        for chunk, mask in plan.prefills:
            rows = query[chunk.row : chunk.row + chunk.count]
            seen.append(_prefill(rows, keys[chunk.slot], values[chunk.slot], mask, scale))
        return torch.cat(seen).flatten(1).float()

    def _plan_decode(self, slots: Tensor, positions: Tensor, rows: Rows) -> Decode:
        count = rows.decodes
        slots, positions = slots[:count], positions[:count]
        span = rows.slots[count - 1] + 1  # rows come in the order of their slots
        length = _rounded(max(rows.positions[:count]) + 1)
        if span == count:
            return Decode(count, slice(0, span), None, self._mask(positions, length)[:, None, None])
        if span > 2 * count:  # mostly holes: copying the few is cheaper than reading all
            return Decode(count, slots, None, self._mask(positions, length)[:, None, None])
        ends = positions.new_zeros(span)  # a hole looks at one position
        ends[slots] = positions
        return Decode(count, slice(0, span), slots, self._mask(ends, length)[:, None, None])

    def _prefill_mask(self, chunk: Chunk) -> Tensor:
        queries = -(-chunk.count // QUERIES) * QUERIES
        ends = torch.arange(chunk.start, chunk.start + queries, device=self.device)
        return self._mask(ends, _rounded(chunk.start + chunk.count))

    def _mask(self, ends: Tensor, length: int) -> Tensor:
        """[len(ends), length]: 0 up to and including each end, minus infinity behind it."""
        behind = torch.arange(length, device=self.device) > ends[:, None]
        mask = torch.zeros(behind.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(behind, -torch.inf)


def _decode(query: Tensor, keys: Tensor, values: Tensor, decode: Decode, scale: float) -> Tensor:
    """Attention of one row per slot, for all slots at once."""
    if decode.places is not None:
        spread = query.new_zeros(len(decode.mask), *query.shape[1:])
        query = spread.index_copy_(0, decode.places, query)
    length = decode.mask.shape[-1]
    keys, values = keys[decode.slots, :, :length], values[decode.slots, :, :length]
    seen = _attention(query.unsqueeze(2), keys, values, decode.mask, scale).squeeze(2)
    return seen if decode.places is None else seen[decode.places]


def _prefill(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of consecutive rows of one slot."""
    queries, length = mask.shape
    padded = query.new_zeros(queries, *query.shape[1:])
    padded[: len(query)] = query
    seen = _attention(padded.transpose(0, 1), keys[:, :length], values[:, :length], mask, scale)
    return seen.transpose(0, 1)[: len(query)]


def _attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """query [..., heads, queries, width] looks at keys and values [..., heads, length, width]."""
    if query.is_cuda:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    # on a CPU the fused attention is slower for single rows, and its bits depend on which thread ran them
    scores = torch.matmul(query * scale, keys.transpose(-2, -1)).add_(mask)
    weights = scores.softmax(-1)
    seen = torch.matmul(weights[..., :SUMMED], values[..., :SUMMED, :])
    for start in range(SUMMED, values.shape[-2], SUMMED):
        part = slice(start, start + SUMMED)
        seen += torch.matmul(weights[..., part], values[..., part, :])
    return seen


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros; on a CPU the system maps each small page on first use, where `torch.zeros` writes all."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would span many positions that nobody uses
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _rounded(length: int) -> int:
    return -(-length // KEYS) * KEYS
