"""The seam between the engine and the networks that it can run."""

from typing import Protocol

from torch import Tensor

from worker.adapters import Adapter
from worker.rows import Rows


class Model(Protocol):
    """What the engine needs of a language model."""

    vocab_size: int
    context: int  # the most tokens a slot can hold
    eos_token_id: int
    slot_bytes: int  # memory of a full slot
    device: str  # where its logits are
    exact_rows: bool  # a row's bits do not depend on which rows it came with

    def reserve(self, slots: int) -> None:
        """Make room for the K/V of so many sequences; all that was kept before is gone."""

    def forward(self, rows: Rows) -> Tensor:
        """fp32 logits [wanted, vocab] of the wanted rows, good until the next pass; K/V of all rows stay."""

    def best(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The same pass: only the likeliest token [wanted], and whether the row was finite [wanted]."""

    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
        """Move i, (from, to), takes the first `positions[i]` positions along; all as if at once."""

    def clear(self, slot: int) -> None:
        """Forget a slot whose numbers were not finite, or may not have been."""

    def adapt(self, adapter: Adapter) -> int:
        """Keep a LoRA adapter; returns its number."""

    def forget(self, adapter: int) -> None:
        """Let an adapter go; its number may be given again."""
