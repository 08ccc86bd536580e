"""The only place that chooses a token: for all due sequences at once, each by its own row alone."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from worker.decoding.drawing import Group, groups_of
from worker.decoding.logprobs import recorded
from worker.decoding.processors import Processors
from worker.decoding.streams import Counters, streams, uniforms
from worker.sequence import Logprob, Sequence
from worker.transfer import read, sent


@dataclass(frozen=True)
class Draw:
    """What was drawn: a token for each sequence, and whether its logits were numbers at all."""

    tokens: list[int]
    finite: list[bool]
    logprobs: list[Logprob | None]  # of those who want them, to be shown or for their sum


@dataclass(frozen=True)
class Choices:
    """How the tokens of a batch are chosen: built anew when others are due."""

    plain: bool  # everyone takes the likeliest token and nobody needs logits
    eos: int
    streams: Counters
    groups: list[Group]
    processors: Processors
    scored: list[int]  # rows that want log-probabilities
    scored_rows: Tensor  # the same
    tops: list[int]  # of those: how many alternatives

    @classmethod
    def of(cls, due: list[Sequence], vocab: int, eos: int, device: str) -> Self:
        """Raises ValueError for a token id outside the vocabulary; `processors.refusal` tells before."""
        asked = [sequence.sampling for sequence in due]
        processors = Processors.of(
            asked,
            [sequence.prompt for sequence in due],
            [sequence.tokens for sequence in due],
            vocab,
            eos,
            device,
        )
        scored = [
            row
            for row, sequence in enumerate(due)
            if sequence.scored or sequence.sampling.logprobs is not None
        ]
        greedy = all(sampling.temperature == 0 for sampling in asked)
        return cls(
            plain=greedy and not scored and processors.idle,
            eos=eos,
            streams=streams([sampling.seed for sampling in asked], [sequence.index for sequence in due]),
            groups=groups_of(asked, vocab, device),
            processors=processors,
            scored=scored,
            scored_rows=sent(scored, device, torch.long),
            tops=[asked[row].logprobs or 0 for row in scored],
        )


@torch.inference_mode()
def sample(logits: Tensor, choices: Choices, due: list[Sequence]) -> Draw:
    """One token for each row of `logits` [due, vocab] in fp32, which are written over.

    `due` are those of `choices`; what they said since is taken from them. A row whose every token is banned
    says end-of-text, banned or not: nothing else it could say would be what was asked for.
    A GPU is waited for once, and again where log-probabilities are wanted.
    """
    outputs = [sequence.tokens for sequence in due]
    finite = logits.amax(-1).isfinite()
    beliefs = logits[choices.scored_rows].log_softmax(-1) if choices.scored else None
    choices.processors.apply(logits, outputs)
    mute = None if choices.processors.idle else logits.amax(-1) == -torch.inf
    steps = [len(output) for output in outputs]
    chance = sent(uniforms(choices.streams, steps), logits.device)
    tokens = torch.empty(len(due), dtype=torch.long, device=logits.device)
    for group in choices.groups:
        tokens[group.rows] = group.drawn(logits, chance[group.rows])
    if mute is not None:
        tokens.masked_fill_(mute, choices.eos)
    said, sound = read(torch.stack((tokens, finite.long()))).tolist()
    logprobs: list[Logprob | None] = [None] * len(due)
    if beliefs is not None:
        records = recorded(beliefs, tokens[choices.scored_rows], choices.tops)
        for row, record in zip(choices.scored, records, strict=True):
            logprobs[row] = record
    return Draw(said, [bool(number) for number in sound], logprobs)
