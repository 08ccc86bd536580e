"""What the first process decides for all: whether to stop, and whether it is time for a checkpoint."""

import time
from pathlib import Path

import torch
from torch import distributed

from trainer.spec import STOP


class Orders:
    """Asked at the same moments by every process of a training, and the same to all."""

    def __init__(self, folder: Path, save_seconds: float) -> None:
        self._stop = folder / STOP
        self._save_seconds = save_seconds
        self._saved_at = time.monotonic()
        self.stopping = False  # once told to, it stays so
        self.save_is_due = False

    def hear(self) -> None:
        """Look, and agree."""
        found = [self._stop.exists(), time.monotonic() - self._saved_at >= self._save_seconds]
        if distributed.is_available() and distributed.is_initialized():
            flags = torch.tensor(found, dtype=torch.int8)
            distributed.broadcast(flags, 0)
            found = [bool(flag) for flag in flags]
        self.stopping |= found[0]
        self.save_is_due = found[1]

    def saved(self) -> None:
        """A checkpoint was made; the clock begins anew."""
        self._saved_at = time.monotonic()
