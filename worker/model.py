"""GPT-2's network: one forward over flat rows of (token, slot, position)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, mish, relu, sigmoid, silu

from worker.cache import Cache, Plan
from worker.linears import Linear, Method, float_type, quantized
from worker.rows import Rows

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: gelu(x, approximate="tanh"),
    "gelu": gelu,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu": relu,
    "silu": silu,
    "swish": silu,
    "mish": mish,
    "tanh": torch.tanh,
}


class Architecture(BaseModel):
    """What of a GPT-2 `config.json` the network depends on, under the names it has there."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: Literal["gpt2"]
    vocab_size: int = Field(default=50257, ge=1)
    n_positions: int = Field(default=1024, ge=2)
    n_embd: int = Field(default=768, ge=1)
    n_layer: int = Field(default=12, ge=1, le=1000)
    n_head: int = Field(default=12, ge=1)
    n_inner: int | None = Field(default=None, ge=1)
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = Field(default=1e-5, gt=0)
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: Literal[False] = False
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _is_supported(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(f"activation_function {self.activation_function!r} is not supported")
        return self

    @property
    def inner(self) -> int:
        """Width of the MLP's inside."""
        return self.n_inner or 4 * self.n_embd

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a checkpoint, named as in `GPT2Model`; Conv1D weights are [in, out]."""
        width, inner = self.n_embd, self.inner
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (self.vocab_size, width),
            "wpe.weight": (self.n_positions, width),
        }
        layers = [f"h.{layer}" for layer in range(self.n_layer)]
        for norm in ("ln_f", *(f"{layer}.{norm}" for layer in layers for norm in ("ln_1", "ln_2"))):
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        products = {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, inner),
            "mlp.c_proj": (inner, width),
        }
        for layer in layers:
            for name, (into, out) in products.items():
                shapes |= {f"{layer}.{name}.weight": (into, out), f"{layer}.{name}.bias": (out,)}
        return shapes if self.tie_word_embeddings else shapes | {"lm_head.weight": (self.vocab_size, width)}

    def attention_scale(self, layer: int) -> float:
        """What the products of queries and keys are multiplied by."""
        scale: float = self.head_width**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


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
class Block:
    """One layer: attention over the slots, then an MLP."""

    before_attention: Norm
    query_key_value: Linear
    attention_out: Linear
    before_mlp: Norm
    mlp_in: Linear
    mlp_out: Linear
    activation: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """x [rows, n_embd]."""
        x = x + self.attention_out(attend(self.query_key_value(self.before_attention(x))))
        return x + self.mlp_out(self.activation(self.mlp_in(self.before_mlp(x))))


@dataclass(frozen=True)
class Network:
    """The weights of a GPT-2, ready to multiply; holds nothing of any sequence."""

    architecture: Architecture
    method: Method
    device: str
    tokens: Tensor  # [vocab, n_embd]
    positions: Tensor  # [context, n_embd]
    blocks: list[Block]
    last_norm: Norm
    head: Linear

    @classmethod
    def build(
        cls, architecture: Architecture, weights: dict[str, Tensor], method: Method, device: str
    ) -> Self:
        """From a checkpoint's tensors, named as in `GPT2Model`, plus `lm_head.weight` when it is not tied."""
        dtype = float_type(method)
        head = weights["wte.weight" if architecture.tie_word_embeddings else "lm_head.weight"]
        return cls(
            architecture=architecture,
            method=method,
            device=device,
            tokens=weights["wte.weight"].to(device, dtype),
            positions=weights["wpe.weight"].to(device, dtype),
            blocks=[
                _block(architecture, weights, f"h.{i}", method, device) for i in range(architecture.n_layer)
            ],
            last_norm=_norm(architecture, weights, "ln_f", device),
            head=quantized(head, None, method, device),
        )

    def cache(self, slots: int, context: int) -> Cache:
        """Room for the keys and values of `slots` sequences."""
        a = self.architecture
        dtype = float_type(self.method)
        return Cache(a.n_layer, slots, a.n_head, context, a.head_width, dtype, self.device)


class GPT2:
    """A network with slots to keep sequences in: what the engine calls a `Model`."""

    def __init__(self, network: Network, context: int, eos_token_id: int) -> None:
        self.network, self.context, self.eos_token_id = network, context, eos_token_id
        self.vocab_size = network.architecture.vocab_size
        self._cache = network.cache(1, context)

    def reserve(self, slots: int) -> None:
        """Make room for so many sequences; all that was kept before is gone."""
        self._cache = self.network.cache(slots, self.context)

    def clear(self, slot: int) -> None:
        """Forget a slot whose numbers were not finite, or may not have been."""
        self._cache.clear(slot)

    @torch.inference_mode()
    def forward(self, rows: Rows) -> Tensor:
        """Logits [wanted, vocab] in fp32 of the wanted rows; K/V of all rows are kept."""
        network, plan = self.network, self._cache.plan(rows)
        tokens = torch.tensor(rows.tokens, device=network.device)
        positions = torch.tensor(rows.positions, device=network.device)
        x = embedding(tokens, network.tokens).float() + embedding(positions, network.positions).float()
        for layer, block in enumerate(network.blocks):
            x = block.forward(x, partial(self._attend, plan, layer))
        if not rows.wanted:  # all were the middle of prompts
            return x.new_empty(0, self.vocab_size)
        return network.head(network.last_norm(x[rows.wanted]))

    def _attend(self, plan: Plan, layer: int, query_key_value: Tensor) -> Tensor:
        architecture = self.network.architecture
        split = query_key_value.view(-1, 3, architecture.n_head, architecture.head_width)
        query, key, value = split.unbind(1)
        return self._cache.attend(layer, query, key, value, plan, architecture.attention_scale(layer))


def _block(
    architecture: Architecture, weights: dict[str, Tensor], name: str, method: Method, device: str
) -> Block:
    def converted(part: str) -> Linear:
        # GPT-2 checkpoints hold Conv1D weights, [in, out]
        return quantized(weights[f"{name}.{part}.weight"].t(), weights[f"{name}.{part}.bias"], method, device)

    return Block(
        before_attention=_norm(architecture, weights, f"{name}.ln_1", device),
        query_key_value=converted("attn.c_attn"),
        attention_out=converted("attn.c_proj"),
        before_mlp=_norm(architecture, weights, f"{name}.ln_2", device),
        mlp_in=converted("mlp.c_fc"),
        mlp_out=converted("mlp.c_proj"),
        activation=ACTIVATIONS[architecture.activation_function],
    )


def _norm(architecture: Architecture, weights: dict[str, Tensor], name: str, device: str) -> Norm:
    weight, bias = (weights[f"{name}.{part}"].to(device, torch.float32) for part in ("weight", "bias"))
    return Norm(weight, bias, architecture.layer_norm_epsilon)
