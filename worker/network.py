"""The only holder of a GPT-2's weights on the torch path: they are multiplied here, and nothing is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm

from worker.activations import ACTIVATIONS, Activation
from worker.architecture import Architecture
from worker.linears import Linear, product
from worker.quantize.methods import Method
from worker.quantize.weights import Int8Weight, Weight

Attend = Callable[[Tensor], Tensor]
"""[rows, 3 * n_embd], queries, keys and values, to what the rows see [rows, n_embd]."""

Adapt = Callable[[str, Tensor, Tensor], None]
"""Add to a product's output [rows, out], in place, what its input [rows, in] gives the rows' adapters."""


@dataclass(frozen=True)
class Norm:
    """A layer norm over the last dimension."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize."""
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class Embedding:
    """A table of vectors, kept as the method keeps it."""

    weight: Tensor  # [entries, width]: float, or int8 codes
    scales: Tensor | None  # of the codes, [entries, 1]

    def __call__(self, entries: Tensor) -> Tensor:
        """[rows] to fp32 [rows, width]."""
        found = embedding(entries, self.weight) if self.scales is None else self.weight[entries]
        return found.float() if self.scales is None else found * self.scales[entries]


@dataclass(frozen=True)
class Block:
    """One layer: attention over the slots, then an MLP."""

    before_attention: Norm
    query_key_value: Linear
    attention_out: Linear
    before_mlp: Norm
    mlp_in: Linear
    mlp_out: Linear
    activation: Activation

    def forward(self, x: Tensor, attend: Attend, adapt: Adapt | None) -> Tensor:
        """x [rows, n_embd], changed in place."""
        seen = attend(_adapted(self.query_key_value, "attn.c_attn", self.before_attention(x), adapt))
        x.add_(_adapted(self.attention_out, "attn.c_proj", seen, adapt))
        inner = self.activation(_adapted(self.mlp_in, "mlp.c_fc", self.before_mlp(x), adapt))
        return x.add_(_adapted(self.mlp_out, "mlp.c_proj", inner, adapt))


@dataclass(frozen=True)
class Network:
    """The weights of a GPT-2, ready to multiply; holds nothing of any sequence."""

    architecture: Architecture
    method: Method
    device: str
    tokens: Embedding
    positions: Embedding
    blocks: list[Block]
    last_norm: Norm
    head: Linear

    @classmethod
    def build(
        cls, architecture: Architecture, weights: dict[str, Weight], method: Method, device: str
    ) -> Self:
        """From weights in the method's numbers, named as in `GPT2Model`; `lm_head.weight` if not tied."""
        head = weights["wte.weight" if architecture.tie_word_embeddings else "lm_head.weight"]
        return cls(
            architecture=architecture,
            method=method,
            device=device,
            tokens=_embedding(weights["wte.weight"], device),
            positions=_embedding(weights["wpe.weight"], device),
            blocks=[
                _block(architecture, weights, f"h.{i}", method, device) for i in range(architecture.n_layer)
            ],
            last_norm=_norm(architecture, weights, "ln_f", device),
            head=product(head, None, method, device),
        )

    @property
    def shared_by_rows(self) -> bool:
        """Whether threads share a pass by its rows; worth it where a layer fits the cache they share."""
        return self.device == "cpu" and self.method in ("int8", "int8_static")

    def embed(self, tokens: list[int], positions: list[int]) -> Tensor:
        """The rows' first vectors, fp32 [rows, n_embd]."""
        found = self.tokens(torch.tensor(tokens, device=self.device))
        return found.add_(self.positions(torch.tensor(positions, device=self.device)))


def _adapted(linear: Linear, name: str, x: Tensor, adapt: Adapt | None) -> Tensor:
    y = linear(x)
    if adapt is not None:
        adapt(name, x, y)
    return y


def _embedding(weight: Weight, device: str) -> Embedding:
    if isinstance(weight, Tensor):
        return Embedding(weight.to(device), None)
    if not isinstance(weight, Int8Weight):
        raise TypeError("an embedding is kept in floats or in int8, never in int4")
    return Embedding(weight.codes.to(device), weight.scales.to(device)[:, None])


def _block(
    architecture: Architecture, weights: dict[str, Weight], name: str, method: Method, device: str
) -> Block:
    def linear(part: str) -> Linear:
        bias = _plain(weights[f"{name}.{part}.bias"], device)
        return product(weights[f"{name}.{part}.weight"], bias, method, device)

    return Block(
        before_attention=_norm(architecture, weights, f"{name}.ln_1", device),
        query_key_value=linear("attn.c_attn"),
        attention_out=linear("attn.c_proj"),
        before_mlp=_norm(architecture, weights, f"{name}.ln_2", device),
        mlp_in=linear("mlp.c_fc"),
        mlp_out=linear("mlp.c_proj"),
        activation=ACTIVATIONS[architecture.activation_function],
    )


def _norm(architecture: Architecture, weights: dict[str, Weight], name: str, device: str) -> Norm:
    weight, bias = (_plain(weights[f"{name}.{part}"], device) for part in ("weight", "bias"))
    return Norm(weight, bias, architecture.layer_norm_epsilon)


def _plain(weight: Weight, device: str) -> Tensor:
    if not isinstance(weight, Tensor):
        raise TypeError("norms and biases stay floating under every method")
    return weight.to(device, torch.float32)
