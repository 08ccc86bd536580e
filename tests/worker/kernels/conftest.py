"""Small models over the kernels, and the same network in plain fp32 with the kernels' roundings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from worker.kernels import NEEDED, NO_VNNI, build, processor_flags, refusal
from worker.kernels.model import KernelGPT2
from worker.model import Architecture
from worker.quantize.codes import decoded, quantized_weights
from worker.quantize.methods import Method
from worker.quantize.weights import Int8Weight, Weight
from worker.rows import Rows

MakeModel = Callable[..., "Made"]


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Compile what is not yet compiled; skip where the kernels cannot be, not where they do not compile."""
    reason = build.missing()
    if reason is None and not processor_flags() >= NEEDED:
        reason = NO_VNNI
    if reason is not None:
        pytest.skip(reason)
    build.main([])
    assert refusal(architecture(), "int8", "cpu") is None


def architecture(**changes: Any) -> Architecture:
    fields = {"vocab_size": 300, "n_positions": 100, "n_embd": 64, "n_layer": 3, "n_head": 4}
    return Architecture.model_validate({"model_type": "gpt2"} | fields | changes)


class Made:
    """A model over the kernels with its weights."""

    def __init__(self, of: Architecture, method: Method = "int8", slots: int = 8, seed: int = 0) -> None:
        self.architecture = of
        tensors = random_tensors(of, seed)
        products = {name.removesuffix(".weight"): 6.0 for name in of.shapes()}  # int8_static's ranges
        self.weights: dict[str, Weight] = quantized_weights(of, tensors, method, products)
        self.model = KernelGPT2.build(of, self.weights, method, of.n_positions, 0)
        self.model.reserve(slots)


def random_tensors(of: Architecture, seed: int) -> dict[str, Tensor]:
    """A checkpoint; wide enough that each prompt goes its own way."""
    numbers = torch.Generator().manual_seed(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("bias"):
            return torch.randn(shape, generator=numbers) * 0.1
        if len(shape) == 1:
            return 1 + torch.randn(shape, generator=numbers) * 0.1
        return torch.randn(shape, generator=numbers) * 0.2

    return {name: tensor(name, shape) for name, shape in of.shapes().items()}


@pytest.fixture
def made() -> Made:
    """The one most tests use."""
    return Made(architecture())


def chunk(tokens: list[int], slot: int = 0, start: int = 0, wanted: list[int] | None = None) -> Rows:
    """Consecutive tokens of one slot; all wanted unless said."""
    count = len(tokens)
    return Rows(
        tokens=tokens,
        slots=[slot] * count,
        positions=list(range(start, start + count)),
        wanted=list(range(count)) if wanted is None else wanted,
    )


def together(*parts: Rows) -> Rows:
    """All in one pass."""
    whole = Rows()
    for part in parts:
        whole.wanted += [len(whole.tokens) + row for row in part.wanted]
        whole.tokens += part.tokens
        whole.slots += part.slots
        whole.positions += part.positions
        whole.adapters += part.adapters or [-1] * len(part.tokens)
    return whole


def some_tokens(count: int, seed: int = 0, vocab: int = 300) -> list[int]:
    numbers = torch.Generator().manual_seed(seed)
    found: list[int] = torch.randint(vocab, (count,), generator=numbers).tolist()
    return found


def reference(
    of: Architecture, weights: dict[str, Weight], tokens: list[int], low_rank: dict[str, Tensor] | None = None
) -> Tensor:
    """Logits [tokens, vocab] in fp32, with activations rounded to codes and K/V to 16 bits as the kernels do.

    `low_rank` are dense matrices [out, in] that products have on top, not quantized.
    """
    plain = {name: decoded(weight) for name, weight in weights.items()}
    low_rank = low_rank or {}

    def product(x: Tensor, name: str) -> Tensor:
        weight = weights[f"{name}.weight"]
        assert isinstance(weight, Int8Weight)
        scale = weight.input_scale or x.abs().amax(1, keepdim=True) / 127
        y = (x / scale).round().clamp(-127, 127) * scale @ plain[f"{name}.weight"].T
        y = y + plain.get(f"{name}.bias", 0)
        return y + x @ low_rank[name].T if name in low_rank else y

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = plain[f"{name}.weight"], plain[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, of.layer_norm_epsilon)

    x = plain["wte.weight"][tokens] + plain["wpe.weight"][: len(tokens)]
    later = torch.ones(len(tokens), len(tokens)).triu(1).bool()
    for layer in range(of.n_layer):
        name = f"h.{layer}"
        split = product(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").view(
            len(tokens), 3, of.n_head, of.head_width
        )
        query, key, value = split.permute(1, 2, 0, 3)  # each [heads, tokens, width]
        key, value = key.half().float(), value.half().float()
        scores = (query @ key.mT * of.attention_scale(layer)).masked_fill(later, -torch.inf)
        seen = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
        x = x + product(seen, f"{name}.attn.c_proj")
        inside = gelu(product(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"), approximate="tanh")
        x = x + product(inside, f"{name}.mlp.c_proj")
    return product(norm(x, "ln_f"), "wte" if of.tie_word_embeddings else "lm_head")


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
