"""What an exception of the device means: it had no room, or it is lost, or somebody made a mistake."""

import re

import torch

_NO_ROOM = ("out of memory", "can't allocate memory", "alloc_failed")
"""How plain RuntimeErrors of torch say it: of a CPU's allocator, of CUDA itself, of cuBLAS and cuDNN."""
_CUDA = re.compile(r"(cuda|cuda driver|cudnn|nccl) error|cu(blas|dnn|solver|sparse)_status", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work may succeed where this failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _NO_ROOM)


def is_device_lost(error: BaseException) -> bool:
    """Whether nothing on the device can succeed any more in this process.

    After an error inside of a kernel every later call of CUDA's fails, and only a new process helps. Torch
    raises it as AcceleratorError, and that of a library on top of CUDA as a RuntimeError which names it.
    """
    if is_out_of_memory(error):
        return False
    named = isinstance(error, RuntimeError) and _CUDA.search(str(error)) is not None
    return isinstance(error, torch.AcceleratorError) or named
