"""The only place that decides in which numbers a weight is kept and multiplied."""

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.functional import linear

from jobs.errors import ModelUnavailable

Method = Literal["fp32", "bf16", "int8"]
METHODS: tuple[Method, ...] = get_args(Method)


class Linear(Protocol):
    """x [rows, in] in fp32 to [rows, out] in fp32."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""


class FloatLinear:
    """A product in the weight's own precision."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        return linear(x.to(self.weight.dtype), self.weight, self.bias).float()


class Int8Linear:
    """Dynamic int8 on CPU: one scale per output channel, and one per row of activations.

    A scale per batch would let one job's outlier change its neighbours' text. The sums are exact integers,
    so a row has the same bits alone or in a batch.
    """

    # without VNNI the processor adds pairs of products in 16 bits; with 7-bit activations they fit
    reach = 127 if torch.cpu._is_vnni_supported() else 63

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.float().contiguous()  # the packing takes a transposed view for what it is not
        self.scales = weight.abs().amax(1).clamp_(min=1e-30) / 127  # [out]
        self.weight = torch.ops.onednn.qlinear_prepack(
            (weight / self.scales[:, None]).round_().to(torch.int8), None
        )
        self.zero_points = torch.zeros(len(self.scales), dtype=torch.int32)
        self.bias = torch.zeros(len(self.scales)) if bias is None else bias.float()
        self.middle = torch.tensor(
            self.reach + 1.5
        )  # the zero point, and a half that makes truncation rounding

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        largest = x.abs().amax(1, keepdim=True).clamp_(min=1e-30)
        codes = torch.addcmul(self.middle, x, self.reach / largest).to(
            torch.uint8
        )  # oneDNN is slow on signed input
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, self.reach + 1, self.weight, self.scales, self.zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return torch.addcmul(self.bias, sums, largest / self.reach)


def quantized(weight: Tensor, bias: Tensor | None, method: Method, device: str) -> Linear:
    """A weight [out, in] and its bias, ready to multiply."""
    if method == "int8":
        return Int8Linear(weight, bias)
    dtype = float_type(method)
    return FloatLinear(
        weight.to(device, dtype).contiguous(), None if bias is None else bias.to(device, dtype)
    )


def float_type(method: Method) -> torch.dtype:
    """The type of what stays floating under a method: embeddings, keys and values."""
    return torch.float32 if method == "fp32" else torch.bfloat16


def choose_method(wanted: str | None, device: str) -> Method:
    """The method asked for, or the device's default. Raises ModelUnavailable."""
    if wanted is None:
        return "int8" if device == "cpu" else "bf16"
    for method in METHODS:
        if wanted == method:
            if method == "int8" and device != "cpu":
                raise ModelUnavailable(f"int8 runs on CPU only so far; use bf16 or fp32 on {device}.")
            return method
    raise ModelUnavailable(f"The quantization {wanted!r} is unknown; use one of {', '.join(METHODS)}.")
