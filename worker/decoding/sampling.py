"""The only place that draws a token: for all due sequences at once, each from a random stream of its own."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.inputs import Sampling

SHORTLIST = 1024  # tokens sorted first for top_p; the whole vocabulary only where these do not suffice
BLOCK = 256  # tokens summed together before the block that holds the drawn one is looked into
GOLDEN = 0x9E3779B97F4A7C15

Counters = NDArray[np.uint64]


@dataclass(frozen=True)
class Draw:
    """What was drawn: a token for each sequence, and whether its logits were numbers at all."""

    tokens: list[int]
    finite: list[bool]


@dataclass(frozen=True)
class Choices:
    """The sampling parameters of a batch: [sequences], or [sequences, 1] beside a vocabulary."""

    streams: Counters
    silenced: Tensor  # until this step, end-of-text is not drawn
    sampled: Tensor  # rows that are not greedy
    temperature: Tensor  # of the sampled rows, like all below
    top_k: Tensor  # 0 keeps all
    top_p: Tensor
    any_silenced: bool
    any_sampled: bool
    largest_k: int
    any_p: bool

    @classmethod
    def of(cls, asked: list[tuple[Sampling, int]], device: str) -> Self:
        """From each sequence's parameters and its index within its job."""
        sampled = [row for row, (sampling, _) in enumerate(asked) if sampling.temperature > 0]
        hot = [asked[row][0] for row in sampled]
        silenced = [0 if sampling.ignore_eos else sampling.min_tokens for sampling, _ in asked]

        def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        return cls(
            streams=streams([sampling.seed for sampling, _ in asked], [index for _, index in asked]),
            silenced=torch.tensor(silenced, device=device),
            sampled=torch.tensor(sampled, dtype=torch.long, device=device),
            temperature=column([sampling.temperature for sampling in hot], torch.float32),
            top_k=column([sampling.top_k for sampling in hot], torch.long),
            top_p=column([sampling.top_p for sampling in hot], torch.float32),
            any_silenced=any(silenced),
            any_sampled=bool(hot),
            largest_k=max((sampling.top_k for sampling in hot), default=0),
            any_p=any(sampling.top_p < 1 for sampling in hot),
        )


@torch.inference_mode()
def sample(logits: Tensor, choices: Choices, steps: list[int], eos: int) -> Draw:
    """One token for each row of `logits` [sequences, vocab]; `steps` counts what each has said so far."""
    if choices.any_silenced:
        silent = torch.tensor(steps, device=logits.device) < choices.silenced
        logits = logits.clone()
        logits[silent, eos] = -torch.inf
    best, tokens = logits.max(-1)  # NaN beats everything here, so this also sees whether a row is finite
    if choices.any_sampled:
        draws = torch.from_numpy(uniforms(choices.streams, steps)).to(logits.device)
        hot = logits[choices.sampled] / choices.temperature
        tokens[choices.sampled] = draw(_filtered(hot, choices), draws[choices.sampled])
    return Draw(tokens.tolist(), best.isfinite().tolist())


def _filtered(scores: Tensor, choices: Choices) -> Tensor:
    if choices.largest_k:
        scores = keep_top_k(scores, choices.top_k, choices.largest_k)
    if choices.any_p:
        scores = keep_top_p(scores, choices.top_p)
    return scores


def keep_top_k(scores: Tensor, top_k: Tensor, largest: int) -> Tensor:
    """Minus infinity below each row's `top_k`-th score; ties with it stay. 0 keeps all."""
    largest = min(largest, scores.shape[-1])
    highest = scores.topk(largest, dim=-1).values
    least = highest.gather(-1, (top_k - 1).clamp(0, largest - 1))
    return scores.masked_fill((scores < least) & (top_k > 0), -torch.inf)


def keep_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Minus infinity outside each row's fewest most likely tokens that together reach `top_p`."""
    probabilities = scores.softmax(-1)
    filtering = top_p < 1
    for width in (min(SHORTLIST, scores.shape[-1]), scores.shape[-1]):
        likely, places = probabilities.topk(width, dim=-1)
        reached = likely.cumsum(-1)
        if bool(((reached[:, -1:] >= top_p) | ~filtering).all()):
            break
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, places, reached - likely < top_p)
    return scores.masked_fill(~kept & filtering, -torch.inf)


def draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [n] by inverse CDF over the softmax of `scores` [n, vocab], at `uniform` [n] in [0, 1)."""
    probabilities = scores.softmax(-1)
    probabilities = torch.nn.functional.pad(probabilities, (0, -probabilities.shape[-1] % BLOCK))
    blocks = probabilities.view(len(scores), -1, BLOCK)
    ends = blocks.sum(-1).double().cumsum(-1)
    target = uniform[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_(max=blocks.shape[1] - 1)
    end = ends.gather(-1, block)
    start = torch.where(block > 0, ends.gather(-1, (block - 1).clamp_(min=0)), 0.0)
    inside = blocks[torch.arange(len(blocks), device=block.device), block[:, 0]].double().cumsum(-1)
    # a share of the block's own sum, so that rounding never leads to a token of probability zero
    share = ((target - start) / (end - start)).clamp_(0, 1 - 2**-40)
    within = torch.searchsorted(inside, share * inside[:, -1:], right=True).clamp_(max=BLOCK - 1)
    return (block * BLOCK + within)[:, 0]


def streams(seeds: list[int], indexes: list[int]) -> Counters:
    """Where the random stream of each (seed, index) starts."""
    return _mixed(_mixed(np.array(seeds, np.uint64)) + np.array(indexes, np.uint64))


def uniforms(starts: Counters, steps: list[int]) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on (seed, index, step) alone: splitmix64 with the step as its counter."""
    bits = _mixed(starts + (np.array(steps, np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))
    return (bits >> np.uint64(24)).astype(np.float64) * 2.0**-40


def _mixed(bits: Counters) -> Counters:
    """The finalizer of splitmix64; arrays of unsigned numbers wrap around."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
