"""Sorts who is due in a pass: those who choose a token by themselves, and the members of beam searches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from worker.decoding.sampling import Choices
from worker.sequence import Sequence


@dataclass(frozen=True)
class Due:
    """Built anew only when somebody comes or goes."""

    everybody: list[Sequence]
    singles: list[Sequence]
    rows: list[int]  # of the singles among everybody
    searches: dict[Sequence, list[int]]  # leader: the rows of its members, in their order
    choices: Choices

    @property
    def plain(self) -> bool:
        """Whether nobody needs logits."""
        return self.choices.plain and not self.searches

    @classmethod
    def of(
        cls,
        due: list[Sequence],
        members: Mapping[Sequence, list[Sequence]],
        vocab: int,
        eos: int,
        device: str,
    ) -> Self:
        """`members`: of each leader of a beam search, itself the first."""
        row_of = {sequence: row for row, sequence in enumerate(due)}
        searches = {
            leader: [row_of.pop(member) for member in team if member in row_of]
            for leader, team in members.items()
            if leader in row_of
        }
        singles = list(row_of)
        return cls(due, singles, list(row_of.values()), searches, Choices.of(singles, vocab, eos, device))
