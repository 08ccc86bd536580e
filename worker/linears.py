"""The only place that decides how a weight is multiplied."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from worker.quantize.int4 import unpacked
from worker.quantize.methods import Method
from worker.quantize.weights import GROUP, Int4Weight, Int8Weight, Weight


class Linear(Protocol):
    """x [rows, in] in fp32 to [rows, out] in fp32, a tensor of its own."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""


class FloatLinear:
    """A product in the weight's own precision."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.dtype, self.bias = weight.dtype, None if bias is None else bias.to(weight.dtype)
        self.packed = not weight.is_cuda and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        # laid out once as oneDNN reads it: 32 rows take 0.4 of the time in fp32, 0.7 in bf16
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        x = x.to(self.dtype)
        if not self.packed:
            return linear(x, self.weight, self.bias).float()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y.float()


class Int8WeightLinear:
    """Weights in int8, products in bf16."""

    FEW = 16  # rows; more are faster against weights that were widened to bf16 first

    def __init__(self, weight: Int8Weight, bias: Tensor | None, device: str) -> None:
        self.codes, self.scales = weight.codes.to(device), weight.scales.to(device)
        self.narrow, self.bias = self.scales.bfloat16(), bias

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        x = x.bfloat16()
        if len(x) <= self.FEW and not x.is_cuda:
            y = torch._weight_int8pack_mm(x, self.codes, self.narrow).float()
        else:
            y = linear(x, self.codes.bfloat16()).float().mul_(self.scales)
        return y if self.bias is None else y.add_(self.bias)


class Int4WeightLinear:
    """Weights in int4 on CPU, products in bf16."""

    def __init__(self, weight: Int4Weight, bias: Tensor | None) -> None:
        codes = torch.stack((weight.codes & 15, weight.codes >> 4), -1).flatten(1).int()
        self.weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scales = weight.scales.t().bfloat16()
        self.scales = torch.stack((scales, torch.zeros_like(scales)), -1)  # [groups, out, scale and zero]
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), self.weight, GROUP, self.scales)
        y = y.float()
        return y if self.bias is None else y.add_(self.bias)


class Int8Linear:
    """int8 on CPU: one scale per output channel, and of activations one per row, or one for all (static).

    A scale per batch would let one job's outlier change its neighbours' text. The sums are exact integers,
    so a row has the same bits alone or in a batch.
    """

    # without VNNI the processor adds pairs of products in 16 bits; with 7-bit activations they fit
    reach = 127 if torch.cpu._is_vnni_supported() else 63

    def __init__(self, weight: Int8Weight, bias: Tensor | None) -> None:
        self.weight = torch.ops.onednn.qlinear_prepack(weight.codes, None)
        self.scales, self.bias = weight.scales, bias
        self.zero_points = torch.zeros(len(self.scales), dtype=torch.int32)
        self.static = None if weight.input_scale is None else weight.input_scale * 127 / self.reach
        # added to a float, 1.5 * 2**23 leaves the nearest integer (of two the even one) in the lowest bits;
        # one for each column: what is spread over rows and columns alike is added slowly
        self.rounding = torch.full((weight.codes.shape[1],), 12582912.0 + self.reach + 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        scale = x.abs().amax(1, keepdim=True).mul_(1 / self.reach)
        if self.static is None:  # a row of zeros has codes of no meaning, times zero
            shifted = torch.addcmul(self.rounding, x, scale.reciprocal())
        else:
            scale.mul_(0).add_(self.static)  # what is not finite must not become a code
            shifted = (x * (1 / self.static)).clamp_(-self.reach, self.reach).add_(self.rounding)
        # oneDNN is slow on signed input; codes are the lowest bytes
        codes = shifted.view(torch.int32).to(torch.uint8)
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, self.reach + 1, self.weight, self.scales, self.zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return sums.mul_(scale) if self.bias is None else torch.addcmul(self.bias, sums, scale)


def product(weight: Weight, bias: Tensor | None, method: Method, device: str) -> Linear:
    """A weight [out, in] and its bias, ready to multiply."""
    if isinstance(weight, Int4Weight):
        if device == "cpu":
            return Int4WeightLinear(weight, bias)
        weight = unpacked(weight).bfloat16()
    if isinstance(weight, Int8Weight):
        if method in ("int8", "int8_static"):
            return Int8Linear(weight, bias)
        return Int8WeightLinear(weight, bias, device)
    return FloatLinear(weight.to(device), bias)
