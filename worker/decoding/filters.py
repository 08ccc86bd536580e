"""Which tokens may be drawn: temperature, top_k, top_p, min_p and typical_p over tokens in their order."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from jobs.inputs import Sampling
from worker.decoding.ranking import highest
from worker.transfer import sent

OFF = 2.0  # a mass that is never reached, so that the filter keeps all
COLDEST = 1e-30  # below, a float's division would overflow; it is as good as greedy


@dataclass(frozen=True)
class Filters:
    """Parameters of some rows, [rows, 1] each; a row that asks for less has neutral values."""

    temperature: Tensor  # fp32
    top_k: Tensor  # a number larger than any vocabulary keeps all
    top_p: Tensor  # fp64, like those below
    min_p: Tensor
    typical_p: Tensor
    any_top_p: bool
    any_min_p: bool
    any_typical: bool

    @classmethod
    def of(cls, asked: list[Sampling], device: str) -> Self:
        """Greedy is to keep the first alone."""

        def column(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
            return sent(values, device, dtype)[:, None]

        ks = [kept_by_rank(sampling) or 2**31 for sampling in asked]
        return cls(
            temperature=column([max(sampling.temperature, COLDEST) for sampling in asked], torch.float32),
            top_k=sent(ks, device)[:, None],
            top_p=column([sampling.top_p if sampling.top_p < 1 else OFF for sampling in asked]),
            min_p=column([sampling.min_p for sampling in asked]),
            typical_p=column([sampling.typical_p if sampling.typical_p < 1 else OFF for sampling in asked]),
            any_top_p=any(sampling.top_p < 1 for sampling in asked),
            any_min_p=any(sampling.min_p for sampling in asked),
            any_typical=any(sampling.typical_p < 1 for sampling in asked),
        )

    def at(self, rows: Tensor) -> Self:
        """Those of some of the rows."""
        return replace(
            self,
            temperature=self.temperature[rows],
            top_k=self.top_k[rows],
            top_p=self.top_p[rows],
            min_p=self.min_p[rows],
            typical_p=self.typical_p[rows],
        )

    def heated(self, scores: Tensor, best: Tensor) -> Tensor:
        """`scores` less each row's `best` [rows, 1], over the temperature: 0 at most, so none overflows."""
        return (scores - best) / self.temperature

    def kept(self, ranked: Tensor, likely: Tensor | None = None) -> Tensor:
        """Probabilities [rows, width] in fp64, not summing to 1, of tokens in their order; 0 where not kept.

        `ranked`: their heated scores. `likely`: their probabilities, where `ranked` does not hold all that
        top_k keeps. Every filter sees what the one before it left, and the first token always stays.
        """
        ranks = torch.arange(ranked.shape[-1], device=ranked.device)
        stays = ranks < self.top_k
        ranked = ranked.masked_fill(~stays, -torch.inf)
        weights = (ranked.softmax(-1) if likely is None else likely).double()
        if self.any_top_p:
            reached = weights.cumsum(-1)
            stays = stays & (reached - weights < self.top_p)
        if self.any_min_p:
            stays = stays & (weights >= self.min_p * weights[:, :1])
        if self.any_typical:
            stays = stays & self._typical(ranked.masked_fill(~stays, -torch.inf))
        return weights.masked_fill(~stays, 0.0)

    def _typical(self, scores: Tensor) -> Tensor:
        """The tokens whose surprise is nearest to the expected one (Meister et al. 2022), ties included."""
        information = -scores.log_softmax(-1).double()
        weights = scores.softmax(-1).double()
        entropy = torch.where(weights > 0, weights * information, 0.0).cumsum(-1)[:, -1:]
        distance = (information - entropy).abs().float()
        order = highest(-distance, scores.shape[-1])
        reached = weights.gather(-1, order).cumsum(-1)
        last = (reached < self.typical_p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return distance <= distance.gather(-1, order.gather(-1, last))


def kept_by_rank(sampling: Sampling) -> int:
    """How many tokens stay by their rank alone; 0: all."""
    return sampling.top_k if sampling.temperature else 1
