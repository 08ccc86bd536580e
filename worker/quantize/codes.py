"""The only place that decides which of a checkpoint's tensors become codes, and makes the int8 ones."""

from collections.abc import Mapping

import torch
from torch import Tensor

from jobs.errors import ModelUnavailable
from worker.model import Architecture
from worker.quantize import int4
from worker.quantize.methods import Method
from worker.quantize.weights import Int4Weight, Int8Weight, Weight

REACH = 127  # of int8 codes; -128 stays unused, so that a weight and its negative have the same error
BLOCK = 64  # output channels worked on at a time: what they need stays in the processor's cache
EMBEDDINGS = ("wte.weight", "lm_head.weight")  # [vocab, n_embd] already
POSITIONS = "wpe.weight"
PRODUCTS = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # Conv1D


def quantized_weights(
    architecture: Architecture,
    weights: dict[str, Tensor],
    method: Method,
    ranges: Mapping[str, float] | None = None,
    moments: Mapping[str, Tensor] | None = None,
) -> dict[str, Weight]:
    """A whole checkpoint in the method's numbers; empties `weights` as it goes, to hold little twice.

    Takes the tensors that `architecture.shapes()` names, of any float type. Returns the same names; layers'
    products come transposed, [out, in].

    Raises:
        ModelUnavailable: the method cannot have these weights.
    """
    return {
        name: quantized_weight(architecture, name, weights.pop(name), method, ranges, moments)
        for name in architecture.shapes()
    }


def quantized_weight(
    architecture: Architecture,
    name: str,
    tensor: Tensor,
    method: Method,
    ranges: Mapping[str, float] | None = None,
    moments: Mapping[str, Tensor] | None = None,
) -> Weight:
    """One tensor of a checkpoint in the method's numbers.

    Of a calibration text's inputs x [rows, in] to each product, by its name without ".weight": int8_static
    cannot do without `ranges`, the largest |x|; int4_weight is better with `moments`, x'x [in, in].
    Raises ModelUnavailable.
    """
    if name == POSITIONS and method != "fp32":
        return tensor.bfloat16().float()  # so that it may be saved in half the bytes
    if not (name in EMBEDDINGS or name.endswith(PRODUCTS)):
        return tensor.float()
    if name.endswith(PRODUCTS):
        tensor = tensor.t()
    if method == "fp32":
        return tensor.float().contiguous()
    if method == "bf16":
        return tensor.to(torch.bfloat16).contiguous()
    product = name.removesuffix(".weight")
    if method == "int4_weight" and name not in EMBEDDINGS:
        int4.groups(tensor.shape[1], name)
        return int4.gptq(tensor, moments[product]) if moments else int4.nearest(tensor)
    if method == "int8_static" and multiplies(architecture, name):
        return int8(tensor, max(needed(ranges)[product], 1e-30) / REACH)
    return int8(tensor)


def multiplies(architecture: Architecture, name: str) -> bool:
    """Whether rows are multiplied by this weight; an untied embedding is only looked up."""
    return name != "wte.weight" or architecture.tie_word_embeddings


def int8(weight: Tensor, input_scale: float | None = None) -> Int8Weight:
    """weight [out, in], one scale per output channel: its largest value becomes 127."""
    scales = torch.empty(len(weight))
    codes = torch.empty(weight.shape, dtype=torch.int8)
    blocks = (torch.split(whole, BLOCK) for whole in (weight, scales, codes))
    for block, scale, code in zip(*blocks, strict=True):
        block = block.float()
        scale.copy_(block.abs().amax(1).clamp_(min=1e-30) / REACH)
        code.copy_((block / scale[:, None]).round_())
    return Int8Weight(codes, scales, input_scale)


def decoded(weight: Weight) -> Tensor:
    """The fp32 [out, in] that the codes stand for."""
    if isinstance(weight, Int8Weight):
        return weight.codes.float() * weight.scales[:, None]
    if isinstance(weight, Int4Weight):
        return int4.unpacked(weight)
    return weight.float()


def needed(ranges: Mapping[str, float] | None) -> Mapping[str, float]:
    """What int8_static cannot do without. Raises ModelUnavailable."""
    if ranges is None:
        raise ModelUnavailable(
            "int8_static needs activation ranges of a calibration text; "
            "write such a model with python -m worker.quantize --method int8_static --calibrate FILE."
        )
    return ranges
