"""The only place that decides in which numbers a model may be kept, and on which device."""

from typing import Literal, get_args

import torch

from jobs.errors import ModelUnavailable

Method = Literal["fp32", "bf16", "int8", "int8_static", "int8_weight", "int4_weight"]
METHODS: tuple[Method, ...] = get_args(Method)
ON_CUDA: tuple[Method, ...] = ("fp32", "bf16", "int8_weight", "int4_weight")


def known_method(name: str) -> Method:
    """The method of this name. Raises ModelUnavailable."""
    for method in METHODS:
        if name == method:
            return method
    raise ModelUnavailable(f"The quantization {name!r} is unknown; use one of {', '.join(METHODS)}.")


def choose_method(wanted: str | None, device: str) -> Method:
    """The method asked for, or the device's default. Raises ModelUnavailable."""
    if wanted is None:
        return "int8" if device == "cpu" else "bf16"
    method = known_method(wanted)
    if device != "cpu" and method not in ON_CUDA:
        raise ModelUnavailable(f"{method} runs on CPU only; use one of {', '.join(ON_CUDA)} on {device}.")
    return method


def float_type(method: Method) -> torch.dtype:
    """The type of what may be 16 bits wide under a method: float products, keys and values."""
    return torch.float32 if method == "fp32" else torch.bfloat16
