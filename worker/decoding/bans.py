"""Which tokens a request pushes or forbids whatever the model thinks: logit_bias, bad_words, min_tokens."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from jobs.inputs import Sampling
from worker.decoding.history import Integers
from worker.stopping import last_tokens
from worker.transfer import sent

Words = dict[int, list[list[int]]]
"""Words of several tokens, by their last but one."""


@dataclass
class Bans:
    """Of a batch; an entry is row * vocab + token."""

    biased: Tensor  # entries
    biases: Tensor  # minus infinity for a bad word of one token
    silent: Integers  # entries of what would end a row, with the row and its min_tokens: [3, entries]
    words: dict[int, Words]  # by row
    prompts: list[list[int]]
    vocab: int

    @classmethod
    def of(
        cls, asked: list[Sampling], prompts: list[list[int]], vocab: int, eos: int, device: str
    ) -> Self | None:
        """None where nobody asked for any."""
        if not any(sampling.logit_bias or sampling.bad_words or sampling.min_tokens for sampling in asked):
            return None
        biases: dict[int, float] = {}
        silent: list[tuple[int, int, int]] = []
        words: dict[int, Words] = {}
        for row, sampling in enumerate(asked):
            start = row * vocab
            biases |= {start + token: bias for token, bias in sampling.logit_bias.items()}
            biases |= {start + word[0]: -np.inf for word in sampling.bad_words if len(word) == 1}
            words |= {row: longer} if (longer := _by_ending(sampling)) else {}
            if sampling.min_tokens:
                ends = last_tokens(sampling, eos)
                silent += [(start + token, row, sampling.min_tokens) for token in ends]
        return cls(
            biased=sent(list(biases), device, torch.long),
            biases=sent(list(biases.values()), device, torch.float32),
            silent=np.array(silent, np.int64).reshape(-1, 3).T,
            words=words,
            prompts=prompts,
            vocab=vocab,
        )

    def push(self, flat: Tensor) -> None:
        """Add every bias to `flat`, the logits [batch * vocab]."""
        flat.scatter_add_(0, self.biased, self.biases)

    def silence(self, flat: Tensor, outputs: list[list[int]]) -> None:
        """Forbid what would end a row too early, and what would complete a bad word."""
        steps = np.array([len(output) for output in outputs])
        entries, rows, least = self.silent
        banned = entries[steps[rows] < least].tolist()
        for row, words in self.words.items():
            banned += [row * self.vocab + token for token in self._completing(words, row, outputs[row])]
        if banned:
            flat.index_fill_(0, sent(banned, flat.device), -torch.inf)

    def _completing(self, words: Words, row: int, output: list[int]) -> list[int]:
        prompt = self.prompts[row]
        begun = words.get(output[-1] if output else prompt[-1], ())
        return [word[-1] for word in begun if _last(len(word) - 1, prompt, output) == word[:-1]]


def _by_ending(sampling: Sampling) -> Words:
    words: Words = defaultdict(list)
    for word in sampling.bad_words:
        if len(word) > 1:
            words[word[-2]].append(list(word))
    return dict(words)


def _last(count: int, prompt: list[int], output: list[int]) -> list[int]:
    """The last tokens of both together; fewer where there are no more."""
    missing = count - len(output)
    return output[-count:] if missing <= 0 else prompt[-missing:] + output
