"""The only place where LoRA adapters are multiplied on the torch path: any number of them in one pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worker.network import Adapt
from worker.transfer import sent

if TYPE_CHECKING:
    from worker.adapters import Adapter


@dataclass(frozen=True)
class Group:
    """The rows of a pass that have one adapter."""

    rows: Tensor | None  # None: all
    products: dict[str, tuple[Tensor, Tensor]]  # A [1, in, rank] and B [1, rank, out]


@dataclass(frozen=True)
class Adapted:
    """What the adapters of a pass's rows add to its products."""

    groups: list[Group]

    def layer(self, number: int) -> Adapt:
        """For the products of one layer."""

        def adapt(name: str, x: Tensor, y: Tensor) -> None:
            for group in self.groups:
                halves = group.products.get(f"h.{number}.{name}")
                if halves is not None:
                    _add(group.rows, *halves, x, y)

        return adapt


class Adapters:
    """The adapters that are kept, by their numbers."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._kept: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}

    def add(self, adapter: "Adapter") -> int:
        """Keep one; its number is the lowest that is free."""
        number = next(free for free in range(len(self._kept) + 1) if free not in self._kept)
        self._kept[number] = {
            name: (a.to(self.device).t().contiguous()[None], b.to(self.device).t().contiguous()[None])
            for name, (a, b) in adapter.products.items()
        }
        return number

    def remove(self, number: int) -> None:
        """Let one go."""
        del self._kept[number]

    def of(self, numbers: list[int]) -> Adapted | None:
        """What these rows' adapters add; -1: none. None where nobody has one."""
        present = sorted(set(numbers) - {-1})
        if not present:
            return None
        if len(set(numbers)) == 1:
            return Adapted([Group(None, self._kept[present[0]])])
        return Adapted([Group(self._rows(numbers, number), self._kept[number]) for number in present])

    def _rows(self, numbers: list[int], number: int) -> Tensor:
        return sent([row for row, its in enumerate(numbers) if its == number], self.device)


def _add(rows: Tensor | None, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> None:
    """y[rows] += B (A x[rows]).

    Each row is a product of its own, of the same shape alone or in company: one product of all rows would
    add in an order that depends on how many they are.
    """
    taken = (x if rows is None else x[rows])[:, None]
    count = len(taken)
    if count == 1:  # a single product is computed another way than a batch of them
        taken = taken.expand(2, -1, -1)
    found = torch.bmm(torch.bmm(taken, a.expand(len(taken), -1, -1)), b.expand(len(taken), -1, -1))[:count, 0]
    if rows is None:
        y.add_(found)
    else:
        y.index_add_(0, rows, found)
