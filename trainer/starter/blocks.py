"""Deals a stream of token ids out in blocks; which ones, depends on the seed and the step alone."""

import torch


class Blocks:
    """Batches of training blocks, so that a resumed run needs no more than its step to go on.

    Each epoch cuts the stream at another random offset: the data is seen several times over, and no block
    begins twice at the same place.
    """

    def __init__(self, stream: torch.Tensor, context: int, batch: int, seed: int) -> None:
        self.stream = stream
        self.context = context
        self.batch = batch
        self.seed = seed
        blocks = (len(stream) - 1) // context - 1  # one less, to leave room for the offset
        self.steps_per_epoch = blocks // batch
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(stream)} tokens are too few for one batch of {batch} blocks of {context}")
        self._epoch = -1
        self._starts = torch.empty(0, dtype=torch.int64)

    def of_step(self, step: int) -> torch.Tensor:
        """The int64 [batch, context + 1] of this step; its last column is only a target."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        starts = self._starts[index * self.batch : (index + 1) * self.batch]
        return self.stream[starts[:, None] + torch.arange(self.context + 1)]

    def _shuffle(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        offset = int(torch.randint(self.context, (1,), generator=generator))
        order = torch.randperm(self.steps_per_epoch * self.batch, generator=generator)
        self._starts = order * self.context + offset
        self._epoch = epoch
