"""How much memory the models may take, and how many slots a model gets of it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jobs.errors import ModelUnavailable
from worker.adapters import Adapter
from worker.loading import Description

SHARE = 0.7
"""Of the machine's or the container's memory: the rest is for the process itself (0.35 GB), for the copy of
a tensor that is being quantized, and, on one machine, for PostgreSQL, Redis and web."""
CUDA_SHARE = 0.85  # of the GPU: the rest is for CUDA's own context, graphs and fragments

_POSITIONS = 64  # K/V is kept for a multiple of so many, or of fewer
_COPIES = 4  # of the logits: the processors' and the filters'
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # cgroups v2, v1
_GB = 1e9


@dataclass(frozen=True)
class Need:
    """What a model takes at most, in bytes."""

    weights: int
    slot: int  # K/V of one slot up to the context; pages that nobody writes cost nothing, but they may be
    step: int  # logits and activations of one pass
    adapters: int = 0  # as long as the model is loaded; what waits for it is little
    slots: int = 0

    @property
    def total(self) -> int:
        """With all its slots full."""
        return self.weights + self.adapters + self.step + self.slots * self.slot


def budget(memory_gb: float, on_cuda: bool) -> int:
    """Bytes that all models and their K/V may take together; `memory_gb` 0: a share of what there is."""
    if memory_gb:
        return int(memory_gb * _GB)
    if on_cuda:
        return int(CUDA_SHARE * torch.cuda.get_device_properties(0).total_memory)
    return int(SHARE * min(_physical(), _limit()))


def fitted(need: Need, slots: int, budget: int) -> Need:
    """The need with as many slots as fit into the budget, `slots` at most.

    Raises:
        ModelUnavailable: not even one fits.
    """
    room = budget - need.weights - need.adapters - need.step
    fit = min(slots, room // need.slot)
    if fit < 1:
        least = need.weights + need.adapters + need.step + need.slot
        raise ModelUnavailable(
            f"it needs {_gb(least)} with one slot, the budget is {_gb(budget)}:"
            " raise MEMORY_GB or take a smaller quantization."
        )
    return replace(need, slots=fit)


def room_beside(need: Need, budget: int) -> int:
    """What a model leaves of the budget while it has one slot."""
    return budget - replace(need, slots=1).total


def estimate(description: Description, adapters: Iterable[Adapter], slots: int, rows: int) -> Need:
    """What a model takes at most whose passes have up to `rows` rows, and one slot of it."""
    a = description.architecture
    positions = -(-a.n_positions // _POSITIONS) * _POSITIONS
    number = 4 if description.quantization == "fp32" else 2
    logits = slots * a.vocab_size
    activations = rows * (a.inner + 4 * a.n_embd)
    return Need(
        weights=description.weight_bytes,
        slot=2 * a.n_layer * positions * a.n_embd * number,
        step=4 * (_COPIES * logits + 2 * activations),
        adapters=adapter_bytes(adapters),
    )


def adapter_bytes(adapters: Iterable[Adapter]) -> int:
    """What adapters take: as they were read, and as the model keeps them."""
    return 2 * sum(adapter.bytes for adapter in adapters)


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit() -> int:
    """The container's limit; a number beyond all memory where there is none."""
    found = [Path(name).read_text().strip() for name in _LIMITS if Path(name).is_file()]
    return min((int(limit) for limit in found if limit.isdigit()), default=2**62)


def _gb(size: int) -> str:
    return f"{size / _GB:.2f} GB" if size >= _GB else f"{size / 1e6:.0f} MB"
