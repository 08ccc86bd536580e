"""The only place where numbers cross between this process and a device: sent without waiting, read with.

A blocking copy would let the device run dry: it could be given nothing to do until the copy is over.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = list[int] | list[float] | NDArray[Any]


def sent(numbers: Numbers, device: str | torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The numbers on the device; lists as int64 and fp32 unless a type is given."""
    made = _made(numbers, dtype)
    here = torch.device(device).type == "cpu"
    return made if here else made.pin_memory().to(device, non_blocking=True)


def send(numbers: Numbers, target: Tensor) -> None:
    """Write the numbers over a tensor."""
    made = _made(numbers, target.dtype)
    # torch gives pinned memory to nobody else before the copy out of it is over
    target.copy_(made.pin_memory() if target.is_cuda else made, non_blocking=True)


def read(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, once everything before it is done: the one thing that a step waits for."""
    return tensor.cpu()


def _made(numbers: Numbers, dtype: torch.dtype | None) -> Tensor:
    return (
        torch.from_numpy(numbers) if isinstance(numbers, np.ndarray) else torch.tensor(numbers, dtype=dtype)
    )
