"""The numbers of a quantized weight, as they are saved and as every path that multiplies them takes them."""

from dataclasses import dataclass

from torch import Tensor

GROUP = 32
"""Inputs of an output channel that share one scale in int4."""


@dataclass(frozen=True)
class Int8Weight:
    """weight[out, in] = codes * scales[out]."""

    codes: Tensor  # int8 [out, in], -127 to 127
    scales: Tensor  # fp32 [out]
    input_scale: float | None = None  # static int8: of every row of activations; None: each row has its own


@dataclass(frozen=True)
class Int4Weight:
    """weight[out, in] = (codes - 8) * scales[out, in / GROUP]."""

    codes: Tensor  # uint8 [out, in / 2]: two inputs a byte, the even one in the low half
    scales: Tensor  # fp32 [out, in / GROUP]


Weight = Tensor | Int8Weight | Int4Weight
"""Of a product or an embedding; of products [out, in], not GPT-2's Conv1D [in, out]."""
