"""What a row said before weighs on what it says next: repetition, presence and frequency, n-grams."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from jobs.inputs import Sampling
from worker.decoding.history import History
from worker.transfer import sent

BEYOND_REACH = 2**31  # tokens; no echo is so long


def remembers(sampling: Sampling) -> bool:
    """Whether what was said weighs at all."""
    return _penalizes(sampling) or sampling.no_repeat_ngram_size > 0


def _penalizes(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1 or bool(sampling.presence_penalty or sampling.frequency_penalty)


@dataclass
class Penalties:
    """Of the rows that asked for any: [rows, 1]. Neutral values change no bit, so rows may be mixed."""

    rows: list[int]  # which of the batch
    seen: list[int]  # how much of each row's output is in the history
    history: History
    start: Tensor  # of each row in the flat logits
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    echo: Tensor  # a token is banned after so many that came before it once already
    penalizing: bool
    echoing: bool

    @classmethod
    def of(
        cls,
        asked: list[Sampling],
        prompts: list[list[int]],
        outputs: list[list[int]],
        vocab: int,
        device: str,
    ) -> Self | None:
        """None where nobody asked for any."""
        rows = [row for row, sampling in enumerate(asked) if remembers(sampling)]
        if not rows:
            return None
        hot = [asked[row] for row in rows]
        echo = [(sampling.no_repeat_ngram_size or BEYOND_REACH) - 1 for sampling in hot]

        def column(values: list[float]) -> Tensor:
            return sent(values, device, torch.float32)[:, None]

        return cls(
            rows=rows,
            seen=[len(outputs[row]) for row in rows],
            history=History.of(
                [prompts[row] for row in rows],
                [outputs[row] for row in rows],
                [sampling.no_repeat_ngram_size for sampling in hot],
                device,
            ),
            start=sent(rows, device)[:, None] * vocab,
            repetition=column([sampling.repetition_penalty for sampling in hot]),
            presence=column([sampling.presence_penalty for sampling in hot]),
            frequency=column([sampling.frequency_penalty for sampling in hot]),
            echo=sent(echo, device)[:, None],
            penalizing=any(_penalizes(sampling) for sampling in hot),
            echoing=any(sampling.no_repeat_ngram_size for sampling in hot),
        )

    def hear(self, outputs: list[list[int]]) -> bool:
        """Take in the token that each row said since; False where some said none or several."""
        said = [outputs[row] for row in self.rows]
        fresh = {len(output) - seen for output, seen in zip(said, self.seen, strict=True)}
        if fresh == {0}:
            return True
        if fresh != {1}:
            return False
        self.seen = [seen + 1 for seen in self.seen]
        self.history.extend(sent([output[-1] for output in said], self.start.device)[:, None])
        return True

    def apply(self, flat: Tensor) -> None:
        """Change `flat`, the logits [batch * vocab]: only where a token of the history stands.

        A token that stands there twice is written twice, with the same value.
        """
        longest = self.history.longest
        entries = (self.history.tokens[:, :longest] + self.start).view(-1)
        if self.penalizing:
            scores = flat.gather(0, entries).view(-1, longest)
            flat.scatter_(0, entries, self._penalized(scores, self.history.counts[:, :longest]).view(-1))
        if self.echoing:
            places = torch.arange(longest, device=flat.device)
            repeats = (self.history.echoes[:, :longest] >= self.echo) & (places < self.history.lengths)
            flat.scatter_add_(0, entries, torch.where(repeats, -torch.inf, 0.0).view(-1))

    def _penalized(self, scores: Tensor, counts: Tensor) -> Tensor:
        """Repetition as in CTRL (Keskar et al. 2019), presence and frequency as OpenAI defines them."""
        scores = torch.where(scores < 0, scores * self.repetition, scores / self.repetition)
        return scores - (counts * self.frequency + (counts > 0) * self.presence)
