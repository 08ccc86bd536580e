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
TOGETHER = 8
"""Segments of next-token rows in one product: read into a core's own cache, then multiplied."""
EVEN = 4
"""Segments of a smaller product are filled up to a multiple: preparing a product of a new shape is slow."""


@dataclass(frozen=True)
class Decode:
    """The next-token rows, each a list of segments; rows of any lengths make products of one shape."""

    count: int  # rows
    batches: list[tuple[Tensor, Tensor, slice]]  # where keys are, where values are, and which segments
    readers: Tensor  # [segments] the row that reads each
    mask: Tensor  # [segments, 1, SEGMENT]
    spread: Tensor  # [rows * heads * longest] each row's segments by head; behind its last: nothing
    gathered: Tensor  # [segments * heads] back
    sums: Tensor  # [longest * rows] likewise, not by head


@dataclass(frozen=True)
class Prefill:
    """Consecutive rows of one slot."""

    chunk: Chunk
    keys: Tensor  # [segments] where they are
    values: Tensor
    mask: Tensor  # [segments, 1, queries, SEGMENT]


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


def look_back(cache: Cache, layer: int, query: Tensor, plan: Plan, scale: float, seen: Tensor) -> None:
    """Write what each row sees: query [rows, heads, width] to fp32 [rows, heads, width]."""
    query = (query * scale).to(cache.dtype)
    if plan.decode is not None:
        count = plan.decode.count
        _decode(cache, layer, query[:count], plan.decode, seen[:count])
    for prefill in plan.prefills:
        rows = slice(prefill.chunk.row, prefill.chunk.row + prefill.chunk.count)
        _prefill(cache, layer, query[rows], prefill, seen[rows])


def _plan_decode(cache: Cache, rows: Rows) -> Decode:
    slots, positions = rows.slots[: rows.decodes], rows.positions[: rows.decodes]
    read = [
        (row, number) for row, position in enumerate(positions) for number in range(position // SEGMENT + 1)
    ]
    count = len(read)
    read += [read[-1]] * (-count % EVEN if count > 1 else 0)  # read once more, and not looked at
    readers, numbers = torch.tensor(read, device=cache.device).t().contiguous()
    keys, values = cache.lines(torch.tensor(slots, device=cache.device)[readers], numbers)
    ends = torch.tensor(positions, device=cache.device)[readers] - numbers * SEGMENT
    longest = max(positions) // SEGMENT + 1
    sums = torch.full((rows.decodes, longest), len(read), device=cache.device)
    sums[readers[:count], numbers[:count]] = torch.arange(count, device=cache.device)
    heads = torch.arange(cache.heads, device=cache.device)
    return Decode(
        count=rows.decodes,
        batches=[
            (keys[part], values[part], part)
            for part in (slice(at, at + TOGETHER) for at in range(0, len(read), TOGETHER))
        ],
        readers=readers,
        mask=_mask(cache, ends)[:, None],
        spread=(sums[:, None] * cache.heads + heads[:, None]).flatten(),
        gathered=((readers[:, None] * cache.heads + heads) * longest + numbers[:, None]).flatten(),
        sums=sums.t().flatten(),
    )


def _plan_prefill(cache: Cache, chunk: Chunk) -> Prefill:
    queries = -(-chunk.count // QUERIES) * QUERIES
    numbers = torch.arange(segments(chunk.start + chunk.count), device=cache.device)
    ends = torch.arange(chunk.start, chunk.start + queries, device=cache.device)
    mask = _mask(cache, ends - numbers[:, None] * SEGMENT)
    return Prefill(chunk, *cache.lines(torch.full_like(numbers, chunk.slot), numbers), mask[:, None])


def _mask(cache: Cache, ends: Tensor) -> Tensor:
    """[*ends, SEGMENT]: 0 up to and including each end, minus infinity behind it."""
    behind = torch.arange(SEGMENT, device=cache.device) > ends[..., None]
    mask = torch.zeros(behind.shape, dtype=cache.dtype, device=cache.device)
    return mask.masked_fill_(behind, -torch.inf)


def _decode(cache: Cache, layer: int, query: Tensor, decode: Decode, seen: Tensor) -> None:
    """query [rows, heads, width] to fp32 of the same shape."""
    rows, heads, width = query.shape
    count = len(decode.readers)
    asking = query.index_select(0, decode.readers).view(count, heads, 1, width)
    scores = query.new_empty(count + 1, heads, SEGMENT)
    scores[count] = -torch.inf
    for keys, _, part in decode.batches:
        asked = asking[part].view(-1, 1, width)
        torch.bmm(
            asked, cache.read(layer, keys).transpose(1, 2), out=scores[:count][part].view(-1, 1, SEGMENT)
        )
    scores[:count].add_(decode.mask)
    weights = scores.view(-1, SEGMENT).index_select(0, decode.spread).view(rows * heads, -1).softmax(-1)
    shares = weights.view(-1, SEGMENT).index_select(0, decode.gathered).view(count, heads, 1, SEGMENT)
    found = query.new_empty(count + 1, heads, width)
    found[count] = 0
    for _, values, part in decode.batches:
        share = shares[part].view(-1, 1, SEGMENT)
        torch.bmm(share, cache.read(layer, values), out=found[:count][part].view(-1, 1, width))
    _add_up(found.index_select(0, decode.sums).view(-1, rows, heads, width), seen)


def _prefill(cache: Cache, layer: int, query: Tensor, prefill: Prefill, seen: Tensor) -> None:
    """query [rows, heads, width] to fp32 of the same shape."""
    rows, heads, width = query.shape
    count, _, queries, _ = prefill.mask.shape
    asking = query.new_zeros(heads, queries, width)
    asking[:, :rows] = query.transpose(0, 1)
    asked = asking.expand(count, -1, -1, -1).reshape(-1, queries, width)
    scores = torch.bmm(asked, cache.read(layer, prefill.keys).transpose(1, 2))
    scores = scores.view(count, heads, queries, SEGMENT).add_(prefill.mask)
    weights = scores.permute(1, 2, 0, 3).reshape(heads * queries, -1).softmax(-1)
    shares = weights.view(heads, queries, count, SEGMENT).permute(2, 0, 1, 3)
    found = torch.bmm(shares.reshape(-1, queries, SEGMENT), cache.read(layer, prefill.values))
    _add_up(found.view(count, heads, queries, width)[:, :, :rows].transpose(1, 2), seen)


def _add_up(found: Tensor, seen: Tensor) -> None:
    """[segments, ...] to their sum, one after the other: `sum` adds in an order that depends on how many."""
    seen.copy_(found[0])
    for segment in found[1:]:
        seen.add_(segment)
