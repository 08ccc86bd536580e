"""Sorts rows by how many of their tokens must be put in order before one is drawn, so that few pay for all.

A row's parameters alone decide, and every sum runs over a width that they alone give: its bits are the same
beside any others.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.inputs import Sampling
from worker.decoding.filters import Filters, kept_by_rank
from worker.decoding.ranking import highest
from worker.transfer import sent

NARROW = 64  # tokens in order, of all rows at once
WIDTHS = (NARROW, 256, 1024)  # of rows with a top_k: the first that is enough
RUNGS = (1024, 8192)  # of rows with top_p alone: as far as their probabilities make them go
FEW = 4  # rows of a whole vocabulary at a time, so that what is made of them stays in a processor's cache
SUMMED = 256  # tokens summed together before the block that holds the drawn one is looked into


@dataclass(frozen=True)
class Group(ABC):
    """Rows of a batch that are drawn in one way."""

    rows: Tensor  # int64 [rows]
    together: slice | None  # the same where they are neighbours, so that nothing need be copied
    filters: Filters
    width: int  # how many of their tokens are put in order at first

    @abstractmethod
    def drawn(self, logits: Tensor, chance: Tensor) -> Tensor:
        """Tokens [rows] from the batch's `logits` [batch, vocab], at `chance` [rows] in [0, 1)."""

    def _own(self, logits: Tensor) -> Tensor:
        return logits[self.rows] if self.together is None else logits[self.together]


@dataclass(frozen=True)
class Ranked(Group):
    """Only the first `width` tokens matter, by top_k or because these are all."""

    def drawn(self, logits: Tensor, chance: Tensor) -> Tensor:
        """See Group."""
        return _by_rank(self._own(logits), self.filters, self.width, chance)


@dataclass(frozen=True)
class Nucleus(Group):
    """top_p alone: the first few tokens mostly reach it, and where they do not, more are put in order."""

    def drawn(self, logits: Tensor, chance: Tensor) -> Tensor:
        """See Group. A GPU would have to be waited for to know who needs more, so there all get all."""
        scores = self._own(logits)
        vocab = scores.shape[-1]
        heated = self.filters.heated(scores, scores.amax(-1, keepdim=True))
        widths = [] if logits.is_cuda else [width for width in RUNGS if width < vocab]
        return _nucleus(heated, heated.softmax(-1), self.filters, chance, [*widths, vocab])


@dataclass(frozen=True)
class Unranked(Group):
    """No filter needs an order: the cumulative sum runs over the vocabulary as it stands."""

    def drawn(self, logits: Tensor, chance: Tensor) -> Tensor:
        """See Group."""
        scores = self._own(logits)
        weights = self.filters.heated(scores, scores.amax(-1, keepdim=True)).softmax(-1)
        if self.filters.any_min_p:
            least = self.filters.min_p * weights.amax(-1, keepdim=True)
            weights = weights.masked_fill(weights < least, 0.0)
        return at_blocks(weights, chance)


def groups_of(asked: list[Sampling], vocab: int, device: str) -> list[Group]:
    """Every row in one group."""
    ways: dict[tuple[type[Group], int], list[int]] = defaultdict(list)
    for row, sampling in enumerate(asked):
        ways[_way(sampling, vocab)].append(row)
    groups = []
    for (kind, width), rows in ways.items():
        size = FEW if device == "cpu" and width != NARROW else len(rows)
        for some in (rows[start : start + size] for start in range(0, len(rows), size)):
            together = slice(some[0], some[-1] + 1) if some[-1] - some[0] == len(some) - 1 else None
            filters = Filters.of([asked[row] for row in some], device)
            groups.append(kind(sent(some, device), together, filters, width))
    return groups


def _way(sampling: Sampling, vocab: int) -> tuple[type[Group], int]:
    kept = min(kept_by_rank(sampling), vocab)
    for width in WIDTHS:
        if 0 < kept <= width:
            return Ranked, min(width, vocab)
    if 0 < kept < vocab or sampling.typical_p < 1:
        return Ranked, vocab
    return (Nucleus, min(RUNGS[0], vocab)) if sampling.top_p < 1 else (Unranked, 0)


def _by_rank(scores: Tensor, filters: Filters, width: int, chance: Tensor) -> Tensor:
    ids = highest(scores, width)
    ranked = scores.gather(1, ids)
    kept = filters.kept(filters.heated(ranked, ranked[:, :1]))
    return ids.gather(1, _at(kept, chance))[:, 0]


def _nucleus(heated: Tensor, likely: Tensor, filters: Filters, chance: Tensor, widths: list[int]) -> Tensor:
    """Tokens [rows] from heated scores and probabilities [rows, vocab], by the first of `widths` to do."""
    width, *wider = widths
    ids = highest(heated, width)
    weights = likely.gather(1, ids)
    tokens = ids.gather(1, _at(filters.kept(heated.gather(1, ids), weights), chance))[:, 0]
    if wider:
        reached = weights.double().cumsum(-1)[:, -1:]
        short = (reached < filters.top_p)[:, 0].nonzero()[:, 0]
        if len(short):
            some = filters.at(short)
            tokens[short] = _nucleus(heated[short], likely[short], some, chance[short], wider)
    return tokens


def _at(weights: Tensor, chance: Tensor) -> Tensor:
    """Places [rows, 1] by inverse CDF over `weights` [rows, width] in fp64."""
    reached = weights.cumsum(-1)
    target = chance[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, target, right=True).clamp_(max=weights.shape[-1] - 1)  # NaN is beyond


def at_blocks(weights: Tensor, chance: Tensor) -> Tensor:
    """Tokens [rows] by inverse CDF over `weights` [rows, vocab]: first a block, then a place in it."""
    rows, vocab = weights.shape
    whole = vocab // SUMMED * SUMMED
    sums = weights[:, :whole].view(rows, whole // SUMMED, SUMMED).sum(-1)
    sums = torch.cat((sums, weights[:, whole:].sum(-1, keepdim=True)), -1)
    ends = sums.double().cumsum(-1)
    target = chance[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=sums.shape[-1] - 1)
    start = torch.where(block > 0, ends.gather(-1, (block - 1).clamp_(min=0)), 0.0)
    # a share of the block's own sum, so that rounding never leads to a token of probability zero
    share = ((target - start) / (ends.gather(-1, block) - start)).clamp_(0, 1 - 2**-40)
    ids = block * SUMMED + torch.arange(SUMMED, device=block.device)
    inside = weights.gather(1, ids.clamp(max=vocab - 1)).double().masked_fill(ids >= vocab, 0.0).cumsum(-1)
    within = torch.searchsorted(inside, share * inside[:, -1:], right=True)
    return (block * SUMMED + within)[:, 0].clamp_(max=vocab - 1)  # NaN is beyond
