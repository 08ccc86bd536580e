"""What a training counts between two looks at it, on this process and then on all."""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Counted:
    """Of the last step, on all processes; `tokens` are those of all steps since the count before."""

    loss: float  # nats per learned token
    accuracy: float | None  # share of the learned tokens that had the largest logit
    grad_norm: float
    tokens: int

    @property
    def is_finite(self) -> bool:
        """Whether the step made numbers."""
        return abs(self.loss) != float("inf") and self.loss == self.loss


class Tally:
    """Adds up on the device; only `count` waits for it."""

    def __init__(self) -> None:
        self._tokens = 0
        self.grad_norm: Tensor | float = 0.0
        self.begin_step(0, None)

    def begin_step(self, tokens: int, learned: Tensor | int | None) -> None:
        """A step of so many tokens on this process begins; `learned` counts those that are, on all."""
        self._tokens += tokens
        self._learned = learned
        self._loss: Tensor | float = 0.0
        self._right: Tensor | float = 0.0

    def add(self, loss: Tensor, right: Tensor) -> None:
        """A pass is done; its loss is its share of the step's on this process."""
        self._loss = self._loss + loss
        self._right = self._right + right

    def count(self) -> Counted:
        """What the last step came to."""
        facts = torch.tensor([float(self._loss), float(self._right), self._tokens], dtype=torch.float64)
        self._tokens = 0
        total = summed(facts)
        learned = 0 if self._learned is None else int(self._learned)
        return Counted(
            loss=total[0],
            accuracy=total[1] / learned if learned else None,
            grad_norm=float(self.grad_norm),
            tokens=int(total[2]),
        )


def summed(facts: Tensor) -> list[float]:
    """The sums over all processes of numbers on the CPU."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(facts)
    return [float(one) for one in facts]
