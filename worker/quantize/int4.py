"""The only place that chooses int4 codes and scales: group by group, or by GPTQ with a text's moments."""

import torch
from torch import Tensor

from jobs.errors import ModelUnavailable
from worker.quantize.weights import GROUP, Int4Weight

SHRINKS = torch.linspace(1.0, 0.7, 5)  # of a group's range: a few clipped values, finer steps for the rest
BLOCK = 64  # output channels worked on at a time: what they need stays in the processor's cache
DAMPING = 0.05  # of the mean second moment, added to each: inputs that hardly vary would make it singular


def groups(into: int, name: str) -> int:
    """How many scales a channel of so many inputs has. Raises ModelUnavailable."""
    if into % GROUP:
        raise ModelUnavailable(
            f"int4_weight needs products whose inputs are a multiple of {GROUP}, and {name} has {into}."
        )
    return into // GROUP


def nearest(weight: Tensor) -> Int4Weight:
    """weight [out, in] with the least squared error of each group by itself."""
    scales, codes = [], []
    for block in torch.split(weight, BLOCK):
        grouped = block.float().reshape(len(block), -1, GROUP)
        scales.append(_best_scales(grouped))
        codes.append(_codes(grouped, scales[-1][..., None]).flatten(1))
    return _packed(torch.cat(codes), torch.cat(scales))


def gptq(weight: Tensor, moments: Tensor) -> Int4Weight:
    """weight [out, in] with little error of the product over inputs x of these `moments`, x'x [in, in].

    Inputs are rounded one after the other, and those still to come make up for each error (Frantar et al.,
    2022, arXiv:2210.17323, in the order of the inputs, each group's scales chosen when its turn comes).
    """
    weight = weight.float().clone(memory_format=torch.contiguous_format)
    spread = _spread(moments)
    scales, codes = [], []
    for first in range(0, weight.shape[1], GROUP):
        behind = first + GROUP
        group, inside = weight[:, first:behind], spread[first:behind, first:behind]
        scale = _best_scales(group)
        errors = torch.empty_like(group)
        for i in range(GROUP):
            code = _codes(group[:, i], scale)
            errors[:, i] = (group[:, i] - code * scale) / inside[i, i]
            group[:, i:] -= torch.outer(errors[:, i], inside[i, i:])
            codes.append(code)
        weight[:, behind:] -= errors @ spread[first:behind, behind:]
        scales.append(scale)
    return _packed(torch.stack(codes, 1), torch.stack(scales, 1))


def unpacked(weight: Int4Weight) -> Tensor:
    """The fp32 [out, in] that the codes stand for."""
    codes = torch.stack((weight.codes & 15, weight.codes >> 4), -1).flatten(1)  # [out, in]
    grouped = codes.view(*weight.scales.shape, GROUP).float() - 8
    return (grouped * weight.scales[..., None]).flatten(1)


def _packed(codes: Tensor, scales: Tensor) -> Int4Weight:
    """Codes [out, in], -8 to 7, two to a byte."""
    both = codes.add(8).to(torch.uint8)
    return Int4Weight(both[:, 0::2] | both[:, 1::2] << 4, scales)


def _codes(values: Tensor, scales: Tensor) -> Tensor:
    return (values / scales).round_().clamp_(-8, 7)


def _best_scales(grouped: Tensor) -> Tensor:
    """grouped [..., GROUP] to scales [...].

    The codes reach one further down than up. So a scale begins with the sign that gives its group's largest
    value the lower end, as in llama.cpp's q4_0; then each candidate is fitted to its codes by least squares.
    """
    largest = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True)).squeeze(-1)
    full = torch.where(largest == 0, -1.0, largest) / -8
    best, least = full, torch.full_like(full, torch.inf)
    for shrink in SHRINKS:
        codes = _codes(grouped, (full * shrink)[..., None])
        fitted = (codes * grouped).sum(-1) / codes.square().sum(-1)
        error = (codes * fitted[..., None] - grouped).square_().sum(-1)
        better = error < least  # never where a group is all zeros: 0 / 0 is NaN
        best, least = torch.where(better, fitted, best), torch.where(better, error, least)
    return best


def _spread(moments: Tensor) -> Tensor:
    """Upper triangular [in, in]: how an input's error is shared out among those behind it."""
    damped = moments + torch.eye(len(moments)) * (moments.diagonal().mean() * DAMPING).clamp_(min=1e-30)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    spread: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return spread
