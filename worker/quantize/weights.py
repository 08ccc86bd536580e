"""The numbers of a quantized weight, as they are saved and as every path that multiplies them takes them."""

from dataclasses import dataclass

from torch import Tensor

GROUP = 32
"""Inputs of an output channel that share one scale in int4."""


@dataclass(frozen=True)
class Int8Weight:
    """weight[out, in] = codes * scales[out]."""

    codes: Tensor  # int8 [out, in], -127 to 127
    scales: Tensor  # fp32 [out], > 0
    input_scale: float | None = None  # static int8: of every row of activations; None: each row has its own


@dataclass(frozen=True)
class Int4Weight:
    """weight[out, in] = (codes - 8) * scales[out, in / GROUP].

    The codes are 0 to 15, so a group has the values -8 to 7 times its scale.
    """

    codes: Tensor  # uint8 [out, in / 2]: two inputs a byte, the even one in the low half
    scales: (
        Tensor  # fp32 [out, in / GROUP], finite, not 0; below 0 where the group's largest value is positive
    )


Weight = Tensor | Int8Weight | Int4Weight
"""Of a product or an embedding; of products [out, in], not GPT-2's Conv1D [in, out]."""
