"""The only place where rows look back: attention over the slots of a cache, planned once for all layers.

A row has the same bits whatever its neighbours' lengths and wherever its prompt was cut: sums run segment
by segment, queries are rounded up, and what is masked adds exact zeros.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.cache import SEGMENT, Cache, segments
from worker.rows import Chunk, Rows

QUERIES = 32
GAP = 3
"""Neighbouring slots that are read in vain rather than to begin another product."""


@dataclass(frozen=True)
class Piece:
    """A segment of neighbouring slots, read in one product."""

    segment: int
    first: int  # slot
    last: int  # the slot behind them

    @property
    def positions(self) -> slice:
        """Of the segment."""
        return slice(self.segment * SEGMENT, (self.segment + 1) * SEGMENT)


@dataclass(frozen=True)
class Decode:
    """The next-token rows: the slots from the first to the last row's, holes between them included."""

    count: int  # rows
    places: Tensor | None  # [rows] where each stands among the slots; None where there is no hole
    mask: Tensor  # [slots, 1, length]
    pieces: list[tuple[Piece, slice, slice]]  # with its slots among those of the mask, and its positions


@dataclass(frozen=True)
class Prefill:
    """Consecutive rows of one slot."""

    chunk: Chunk
    mask: Tensor  # [queries, length]


@dataclass(frozen=True)
class Plan:
    """Where the rows of one pass write and what they see; the same for every layer."""

    places: Tensor
    decode: Decode | None
    prefills: list[Prefill]


def plan(cache: Cache, rows: Rows) -> Plan:
    """What all layers need to know about a pass."""
    decode = _plan_decode(cache, rows) if rows.decodes else None
    return Plan(cache.places(rows), decode, [_plan_prefill(cache, chunk) for chunk in rows.chunks])


def pieces(slots: list[int], positions: list[int]) -> list[Piece]:
    """What rows in the order of their slots must read, each up to its position, in few products."""
    found: list[Piece] = []
    for segment in range(segments(max(positions) + 1)):
        reading = [
            slot for slot, position in zip(slots, positions, strict=True) if position >= segment * SEGMENT
        ]
        first = before = reading[0]
        for slot in reading[1:]:
            if slot - before > GAP:
                found.append(Piece(segment, first, before + 1))
                first = slot
            before = slot
        found.append(Piece(segment, first, before + 1))
    return found


def look_back(cache: Cache, layer: int, query: Tensor, plan: Plan, scale: float) -> Tensor:
    """What each row sees: query [rows, heads, width] to fp32 [rows, heads * width]."""
    query = (query * scale).to(cache.dtype)
    seen = []
    if plan.decode is not None:
        seen.append(_decode(cache, layer, query[: plan.decode.count], plan.decode))
    for prefill in plan.prefills:
        chunk = prefill.chunk
        seen.append(_prefill(cache, layer, query[chunk.row : chunk.row + chunk.count], prefill))
    return (seen[0] if len(seen) == 1 else torch.cat(seen)).flatten(1)


def _plan_decode(cache: Cache, rows: Rows) -> Decode:
    slots, positions = rows.slots[: rows.decodes], rows.positions[: rows.decodes]
    first, span = slots[0], slots[-1] - slots[0] + 1
    ends, places = [0] * span, None  # a hole looks at one position
    for slot, position in zip(slots, positions, strict=True):
        ends[slot - first] = position
    if span > rows.decodes:
        places = torch.tensor([slot - first for slot in slots], device=cache.device)
    mask = _mask(cache, torch.tensor(ends, device=cache.device), max(ends) + 1)
    read = [
        (piece, slice(piece.first - first, piece.last - first), piece.positions)
        for piece in pieces(slots, positions)
    ]
    return Decode(rows.decodes, places, mask[:, None], read)


def _plan_prefill(cache: Cache, chunk: Chunk) -> Prefill:
    queries = -(-chunk.count // QUERIES) * QUERIES
    ends = torch.arange(chunk.start, chunk.start + queries, device=cache.device)
    return Prefill(chunk, _mask(cache, ends, chunk.start + chunk.count))


def _mask(cache: Cache, ends: Tensor, length: int) -> Tensor:
    """[len(ends), length in whole segments]: 0 up to and including each end, minus infinity behind it."""
    length = segments(length) * SEGMENT
    behind = torch.arange(length, device=cache.device) > ends[:, None]
    mask = torch.zeros(behind.shape, dtype=cache.dtype, device=cache.device)
    return mask.masked_fill_(behind, -torch.inf)


def _decode(cache: Cache, layer: int, query: Tensor, decode: Decode) -> Tensor:
    """query [rows, heads, width] to fp32 of the same shape."""
    heads, width = query.shape[1:]
    slots = len(decode.mask)
    if decode.places is not None:
        query = query.new_zeros(slots, heads, width).index_copy_(0, decode.places, query)
    scores = decode.mask.repeat(1, heads, 1)
    seen = torch.zeros(slots, heads, width, device=query.device)
    for piece, part, where in decode.pieces:
        keys, _ = cache.segment(layer, piece.segment, piece.first, piece.last)
        # the product reads slowly from main memory, which a copy does not; and the keys come first,
        # because a vector times their transpose took twice as long
        found = torch.bmm(keys.clone(), query[part].reshape(-1, width, 1))
        scores[part, :, where].add_(found.view(-1, heads, SEGMENT))
    weights = scores.softmax(-1)
    for piece, part, where in decode.pieces:
        _, values = cache.segment(layer, piece.segment, piece.first, piece.last)
        found = torch.bmm(weights[part, :, where].reshape(-1, 1, SEGMENT), values.clone())
        seen[part].add_(found.view(-1, heads, width))
    return seen if decode.places is None else seen[decode.places]


def _prefill(cache: Cache, layer: int, query: Tensor, prefill: Prefill) -> Tensor:
    """query [rows, heads, width] to fp32 of the same shape."""
    rows, heads, width = query.shape
    queries, length = prefill.mask.shape
    if rows < queries:
        query = torch.cat((query, query.new_zeros(queries - rows, heads, width)))
    query = query.transpose(0, 1).contiguous()
    scores = prefill.mask.repeat(heads, 1, 1)
    seen = torch.zeros(heads, queries, width, device=query.device)
    slot = prefill.chunk.slot
    for number in range(length // SEGMENT):
        keys, _ = cache.segment(layer, number, slot, slot + 1)
        scores[..., number * SEGMENT : (number + 1) * SEGMENT].add_(torch.bmm(query, keys.transpose(1, 2)))
    weights = scores.softmax(-1)
    for number in range(length // SEGMENT):
        _, values = cache.segment(layer, number, slot, slot + 1)
        seen.add_(torch.bmm(weights[..., number * SEGMENT : (number + 1) * SEGMENT], values))
    return seen.transpose(0, 1)[:rows]
