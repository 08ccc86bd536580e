"""The only place that says what a GPT-2 consists of: its configuration, its tensors' names and shapes."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.activations import ACTIVATIONS


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
