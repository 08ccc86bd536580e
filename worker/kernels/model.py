"""GPT-2 over the C++ kernels: int8 products, 16-bit keys and values, one call for each pass."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from worker.kernels import compiled
from worker.model import Architecture
from worker.quantize.weights import Int8Weight, Weight
from worker.rows import Rows

if TYPE_CHECKING:
    from worker.adapters import Adapter

PRODUCTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class KernelGPT2:
    """A network with slots to keep sequences in: what the engine calls a `Model`.

    A row's bits depend on its own sequence alone: not on its neighbours, its slot, where its prompt was cut,
    nor on `threads`, which is how many a pass takes.
    """

    device = "cpu"
    exact_rows = True

    def __init__(
        self, kernel: Any, vocab_size: int, context: int, eos_token_id: int, threads: int = 1
    ) -> None:
        self._kernel = kernel
        self.threads = threads
        self.vocab_size, self.context, self.eos_token_id = vocab_size, context, eos_token_id
        self.slot_bytes: int = kernel.slot_bytes
        self.reserve(1)

    @classmethod
    def build(
        cls,
        architecture: Architecture,
        weights: dict[str, Weight],
        method: str,
        context: int,
        eos_token_id: int,
        threads: int = 1,
    ) -> Self:
        """From int8 or int8_static weights as `quantized_weights` makes them, which are copied."""
        step = compiled()
        kernel = step.Model(
            step.Architecture(
                layers=architecture.n_layer,
                width=architecture.n_embd,
                heads=architecture.n_head,
                inner=architecture.inner,
                vocab=architecture.vocab_size,
                context=context,
                epsilon=architecture.layer_norm_epsilon,
                tied=architecture.tie_word_embeddings,
                attention_scales=[architecture.attention_scale(i) for i in range(architecture.n_layer)],
            )
        )
        _fill(kernel, architecture, weights, context)
        return cls(kernel, architecture.vocab_size, context, eos_token_id, threads)

    def reserve(self, slots: int) -> None:
        """Make room for so many sequences, costing memory only as it fills; what was kept is gone."""
        self._kernel.reserve(slots)

    def forward(self, rows: Rows) -> Tensor:
        """Logits [wanted, vocab] in fp32 of the wanted rows; K/V of all rows are kept.

        Raises IndexError for a token, slot, position or adapter that does not exist.
        """
        logits = torch.empty(len(rows.wanted), self.vocab_size)
        self._run(rows, (logits.data_ptr(), 0, 0))
        return logits

    def best(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The likeliest token of each wanted row, the lowest of equals, and whether it was finite."""
        tokens = torch.empty(len(rows.wanted), dtype=torch.int64)
        finite = torch.empty(len(rows.wanted), dtype=torch.bool)
        self._run(rows, (0, tokens.data_ptr(), finite.data_ptr()))
        return tokens, finite

    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
        """Give slot moves[i][1] the first positions[i] positions of slot moves[i][0], all as if at once."""
        self._kernel.copy(moves, positions, self.threads)

    def clear(self, slot: int) -> None:
        """Forget a slot; its memory goes back to the system."""
        self._kernel.clear(slot)

    def adapt(self, adapter: "Adapter") -> int:
        """Keep a LoRA adapter; its number is what `Rows.adapters` names it by."""
        pairs = {}
        for name, (down, up) in adapter.products.items():
            _, layer, product = name.split(".", 2)
            pairs[int(layer), PRODUCTS.index(product)] = (_floats(down), _floats(up.t()))
        number: int = self._kernel.adapt(pairs)
        return number

    def forget(self, adapter: int) -> None:
        """Let an adapter go; its number may be given again."""
        self._kernel.forget(adapter)

    def profile(self, work: Callable[[], object]) -> dict[str, float]:
        """Seconds that the passes which `work` makes spend in each part of the network."""
        seconds: dict[str, float] = self._kernel.profile(work)
        return seconds

    def _run(self, rows: Rows, output: tuple[int, int, int]) -> None:
        self._kernel.run(
            rows.tokens,
            rows.slots,
            rows.positions,
            rows.adapters,
            rows.wanted,
            output,
            self.threads,
        )


def _fill(kernel: Any, architecture: Architecture, weights: dict[str, Weight], context: int) -> None:
    for layer in range(architecture.n_layer):
        for number, product in enumerate(PRODUCTS):
            name = f"h.{layer}.{product}"
            codes, scales, input_scale = _int8(weights, f"{name}.weight")
            kernel.set_product(layer, number, codes, scales, _plain(weights, f"{name}.bias"), input_scale)
    norms = [f"h.{layer}.{norm}" for layer in range(architecture.n_layer) for norm in ("ln_1", "ln_2")]
    for number, norm in enumerate([*norms, "ln_f"]):
        kernel.set_norm(number, _plain(weights, f"{norm}.weight"), _plain(weights, f"{norm}.bias"))
    kernel.set_positions(_plain(weights, "wpe.weight")[:context])
    kernel.set_tokens(*_int8(weights, "wte.weight"))
    if not architecture.tie_word_embeddings:
        kernel.set_head(*_int8(weights, "lm_head.weight"))


def _int8(weights: dict[str, Weight], name: str) -> tuple[np.ndarray, np.ndarray, float]:
    weight = weights[name]
    if not isinstance(weight, Int8Weight):
        raise TypeError(f"the kernels take {name} as int8 codes, not as {type(weight).__name__}")
    return weight.codes.contiguous().numpy(), _floats(weight.scales), weight.input_scale or 0.0


def _plain(weights: dict[str, Weight], name: str) -> np.ndarray:
    weight = weights[name]
    if not isinstance(weight, Tensor):
        raise TypeError(f"the kernels take {name} in floats, not as {type(weight).__name__}")
    return _floats(weight)


def _floats(tensor: Tensor) -> np.ndarray:
    return tensor.float().contiguous().numpy()
