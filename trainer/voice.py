"""How a training child speaks to its parent; only the first of its processes does."""

import os
import time
from pathlib import Path
from typing import Self

from trainer.words import FIFO, Stepped, Word

STEP_SECONDS = 0.5  # between two words about a step


class Voice:
    """Says words into the parent's FIFO, or nothing in the other processes of a training."""

    def __init__(self, handle: int | None) -> None:
        self._handle = handle
        self._stepped = -STEP_SECONDS

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Into the FIFO of a job's folder; waits until somebody listens."""
        return cls(os.open(folder / FIFO, os.O_WRONLY))

    def say(self, word: Word) -> None:
        """One line; steps that follow too closely upon another are left out, but for the last."""
        if self._handle is None:
            return
        if isinstance(word, Stepped):
            now = time.monotonic()
            if now - self._stepped < STEP_SECONDS and word.step < word.total_steps:
                return
            self._stepped = now
        line = word.model_dump_json().encode() + b"\n"
        while line:
            line = line[os.write(self._handle, line) :]
