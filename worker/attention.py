"""The only place where rows look back: attention over the slots of a cache, planned once for all layers.

A key's segment is `width` lines of SEGMENT numbers, a value's SEGMENT lines of `width`. So the scores of a
segment are a sum of its lines weighted by the query, and what a row sees is a sum of its segments' lines
weighted by the softmax of its scores: `embedding_bag`, which reads each line where it lies. It adds the lines
of a sum one after the other in fp32, so a row has the same bits whatever its neighbours, and wherever its
prompt was cut; what is masked adds exact zeros.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from worker.cache import SEGMENT, Cache, Places
from worker.rows import Rows


@dataclass(frozen=True)
class Plan:
    """Where the rows of one pass write and what they see; the same for every layer.

    Reads are the segments that each head of each row reads, in the order of rows, heads, positions.
    """

    places: Places
    askers: Tensor  # [reads] whose query, among rows * heads
    keys: Tensor  # [reads * width] lines
    scores: Tensor  # [rows * heads * longest + 1] where each segment's lines begin; behind a row's last: none
    mask: (
        Tensor  # [rows, 1, longest * SEGMENT]: 0 up to and including each position, minus infinity behind it
    )
    weights: Tensor  # [reads] which segment, among rows * heads * longest
    values: Tensor  # [reads * SEGMENT] lines
    found: Tensor  # [rows * heads + 1] where the lines of each begin


def plan(cache: Cache, rows: Rows) -> Plan:
    """What all layers need to know about a pass."""
    slots, positions = (torch.tensor(n, device=cache.device) for n in (rows.slots, rows.positions))
    counts = (positions // SEGMENT + 1).repeat_interleave(cache.heads)
    ends = counts.cumsum(0)
    starts = ends - counts
    askers = torch.arange(len(counts), device=cache.device).repeat_interleave(counts)
    numbers = torch.arange(len(askers), device=cache.device) - starts[askers]
    longest = max(rows.positions) // SEGMENT + 1
    upto = torch.arange(longest, device=cache.device).minimum(counts[:, None])
    keys, values = cache.lines(slots[askers // cache.heads], askers % cache.heads, numbers)
    return Plan(
        places=cache.places(rows),
        askers=askers,
        keys=keys,
        scores=_offsets((starts[:, None] + upto).flatten(), len(askers), cache.width),
        mask=_mask(cache, positions, longest)[:, None],
        weights=askers * longest + numbers,
        values=values,
        found=_offsets(starts, len(askers), SEGMENT),
    )


def look_back(cache: Cache, layer: int, query: Tensor, plan: Plan) -> Tensor:
    """What each row sees, [rows, heads * width].

    Queries [rows, heads, width] are scaled, and in the cache's type, as is the result.
    """
    rows, heads, width = query.shape
    asking = query.view(-1, width).index_select(0, plan.askers).view(-1)
    scores = _sums(plan.keys, cache.keys[layer], plan.scores, asking)
    weights = scores.view(rows, heads, -1).add_(plan.mask).softmax(-1)
    shares = weights.view(-1, SEGMENT).index_select(0, plan.weights).view(-1)
    return _sums(plan.values, cache.values[layer], plan.found, shares).view(rows, -1)


def _sums(lines: Tensor, table: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Sums of the table's lines from each offset to the next, weighted: [offsets - 1, a line's numbers]."""
    return embedding_bag(
        lines, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _offsets(starts: Tensor, end: int, lines: int) -> Tensor:
    """Of sums that begin at these reads, each of so many lines, as int32."""
    return torch.cat((starts, starts.new_tensor([end]))).mul_(lines).int()


def _mask(cache: Cache, positions: Tensor, longest: int) -> Tensor:
    behind = torch.arange(longest * SEGMENT, device=cache.device) > positions[:, None]
    return torch.zeros(behind.shape, dtype=cache.dtype, device=cache.device).masked_fill_(behind, -torch.inf)
