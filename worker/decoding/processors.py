"""The only place that changes logits before a token is chosen: all rows at once, in transformers' order."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from jobs.inputs import Sampling
from worker.decoding.bans import Bans
from worker.decoding.penalties import Penalties, remembers


def refusal(sampling: Sampling, vocab: int) -> str | None:
    """Why a model of `vocab` tokens cannot do what is asked, naming the field; None where it can."""
    fields = {
        "logit_bias": sampling.logit_bias,
        "bad_words": [token for word in sampling.bad_words for token in word],
        "stop_token_ids": sampling.stop_token_ids,
    }
    for field, ids in fields.items():
        for token in ids:
            if not 0 <= token < vocab:
                return f"{field} has the token id {token}; send ids from 0 to {vocab - 1}."
    return None


def processes(sampling: Sampling) -> bool:
    """Whether anything changes the logits before temperature and filters."""
    return bool(sampling.logit_bias or sampling.bad_words or sampling.min_tokens) or remembers(sampling)


@torch.inference_mode()
def processed(
    scores: Tensor, sampling: Sampling, prompt: list[int], hypotheses: list[list[int]], eos: int
) -> Tensor:
    """Process what beams think: row i of `scores` [hypotheses, vocab] follows `prompt` and `hypotheses[i]`.

    Writes over `scores` and returns them. A row whose every token is banned is minus infinity throughout.
    """
    if processes(sampling):
        beams = len(hypotheses)
        asked, prompts = [sampling] * beams, [prompt] * beams
        Processors.of(asked, prompts, hypotheses, scores.shape[-1], eos, str(scores.device)).apply(
            scores, hypotheses
        )
    return scores


@dataclass
class Processors:
    """Those of a batch, with what they remember of it."""

    asked: list[Sampling]
    prompts: list[list[int]]
    vocab: int
    device: str
    bans: Bans | None
    penalties: Penalties | None

    @classmethod
    def of(
        cls,
        asked: list[Sampling],
        prompts: list[list[int]],
        outputs: list[list[int]],
        vocab: int,
        eos: int,
        device: str,
    ) -> Self:
        """Raises ValueError for a token id outside the vocabulary, which would hit a neighbour's row."""
        for sampling in asked:
            if reason := refusal(sampling, vocab):
                raise ValueError(reason)
        bans = Bans.of(asked, prompts, vocab, eos, device)
        penalties = Penalties.of(asked, prompts, outputs, vocab, device)
        return cls(asked, prompts, vocab, device, bans, penalties)

    @property
    def idle(self) -> bool:
        """Whether nobody asked for any."""
        return self.bans is None and self.penalties is None

    def apply(self, logits: Tensor, outputs: list[list[int]]) -> None:
        """Change `logits` [rows, vocab] of the tokens that come after each row's prompt and output."""
        flat = logits.view(-1)
        if self.bans:
            self.bans.push(flat)
        if self.penalties:
            if not self.penalties.hear(outputs):
                self.penalties = Penalties.of(self.asked, self.prompts, outputs, self.vocab, self.device)
                assert self.penalties
            self.penalties.apply(flat)
        if self.bans:
            self.bans.silence(flat, outputs)
