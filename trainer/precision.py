"""In which precisions a device trains at a reasonable speed."""

from typing import Literal

import torch

from jobs import plan
from jobs.finetune_input import Precision


def chosen(asked: Precision | Literal["auto"], device: str) -> Precision:
    """What was asked for, or the fastest. A CPU multiplies bf16 in any case, if slowly.

    Raises ValueError where the device cannot.
    """
    if (asked, device) == ("bf16", "cpu"):
        return "bf16"
    return plan.precision(asked, available(device))


def available(device: str) -> list[Precision]:
    """fp16 needs a GPU; bf16 one that has it, or a CPU with AVX512-BF16 or AMX."""
    if device == "cuda":
        return ["fp32", "fp16", "bf16"] if torch.cuda.is_bf16_supported() else ["fp32", "fp16"]
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return ["fp32", "bf16"] if fast else ["fp32"]
