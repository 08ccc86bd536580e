"""What each of some sequences was told and said, as tensors that grow by a token a step."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.transfer import sent

ROOM = 64  # columns added when a table is full

Integers = NDArray[np.int64]


@dataclass
class History:
    """Rows of prompt + output; columns past a row's end repeat its first token."""

    tokens: Tensor  # int64 [rows, columns]
    counts: (
        Tensor  # fp32 [rows, columns]: how often the row has said, not been told, the token in this column
    )
    echoes: Tensor  # int64 [rows, columns]: how many tokens before this column are also the row's last ones
    prompts: Tensor  # int64 [rows, 1]: lengths
    lengths: Tensor  # int64 [rows, 1]: of prompt + output
    longest: int

    @classmethod
    def of(cls, prompts: list[list[int]], outputs: list[list[int]], depths: list[int], device: str) -> Self:
        """`depths`: how long an echo of each row matters; from there on it may be told too short."""
        told = [np.array(prompt, np.int64) for prompt in prompts]
        rows = [
            np.concatenate((prompt, np.array(output, np.int64)))
            for prompt, output in zip(told, outputs, strict=True)
        ]
        longest = max(len(row) for row in rows)
        tokens = np.empty((len(rows), longest + ROOM), np.int64)
        counts, echoes = np.zeros_like(tokens, np.float32), np.zeros_like(tokens)
        for index, (row, prompt, depth) in enumerate(zip(rows, told, depths, strict=True)):
            tokens[index] = row[0]
            tokens[index, : len(row)] = row
            counts[index] = _counted(tokens[index], len(prompt), len(row))
            echoes[index, : len(row)] = _echoed(row, depth)

        def column(lengths: list[int]) -> Tensor:
            return sent(lengths, device)[:, None]

        return cls(
            tokens=sent(tokens, device),
            counts=sent(counts, device),
            echoes=sent(echoes, device),
            prompts=column([len(prompt) for prompt in told]),
            lengths=column([len(row) for row in rows]),
            longest=longest,
        )

    def extend(self, said: Tensor) -> None:
        """Add each row its next token, `said` [rows, 1]."""
        if self.longest == self.tokens.shape[1]:
            self._widen()
        self.tokens.scatter_(1, self.lengths, said)
        self.longest += 1
        same = self.tokens == said
        places = torch.arange(self.tokens.shape[1], device=said.device)
        own = same & (places >= self.prompts) & (places <= self.lengths)
        self.counts = torch.where(same, own.sum(-1, keepdim=True, dtype=torch.float32), self.counts)
        # whoever stands after the same token continues the echo that ended before that token
        self.echoes[:, 1:] = torch.where(same, self.echoes + 1, 0)[:, :-1]
        self.lengths = self.lengths + 1

    def _widen(self) -> None:
        first = self.tokens[:, :1]
        self.tokens = torch.cat((self.tokens, first.expand(-1, ROOM)), -1)
        self.counts = torch.cat((self.counts, self.counts[:, :1].expand(-1, ROOM)), -1)
        self.echoes = torch.nn.functional.pad(self.echoes, (0, ROOM))


def _counted(tokens: Integers, start: int, end: int) -> NDArray[np.float64]:
    """Of each token, how often it stands in `tokens[start:end]`."""
    if start == end:
        return np.zeros(len(tokens))
    _, which = np.unique(tokens, return_inverse=True)
    return np.bincount(which[start:end], minlength=int(which.max()) + 1)[which].astype(np.float64)


def _echoed(row: Integers, depth: int) -> Integers:
    """For each place, how many tokens before it are also the last ones of `row`; at most `depth`."""
    echoes = np.zeros_like(row)
    places = np.arange(len(row))
    for back in range(1, min(depth, len(row) - 1) + 1):
        places = places[places >= back]
        places = places[row[places - back] == row[-back]]
        if not len(places):
            break
        echoes[places] = back
    return echoes
