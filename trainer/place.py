"""Which of a training's processes this is, as torchrun says it."""

import os
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Place:
    """Processes of one host share its disk; those of several share nothing but what they send."""

    rank: int  # among all
    on_host: int  # among those of the same host
    processes: int

    @property
    def speaks(self) -> bool:
        """The first of all talks to the trainer, hears of stops, and writes checkpoints and the result."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """The first of its host makes there what the others of the host then find."""
        return self.on_host == 0

    @classmethod
    def read(cls) -> Self:
        """From the environment; without torchrun there is one process."""
        said = os.environ
        rank, on_host = int(said.get("RANK", "0")), int(said.get("LOCAL_RANK", "0"))
        return cls(rank, on_host, int(said.get("WORLD_SIZE", "1")))
