"""A network with slots to keep sequences in: what the engine calls a `Model`, on any machine."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from worker.activations import ACTIVATIONS
from worker.architecture import Architecture
from worker.attention import look_back, plan
from worker.cache import Cache
from worker.lora import Adapters
from worker.network import Network
from worker.parts import Crew, Part, parted
from worker.rows import Rows

__all__ = ["ACTIVATIONS", "GPT2", "Architecture", "Network"]

if TYPE_CHECKING:
    from worker.adapters import Adapter

Result = TypeVar("Result")

BLOCK = 128  # logits of a row whose largest is looked for together: argmax itself is not vectorized


class GPT2:
    """A network and the K/V of its sequences; one thread at a time."""

    def __init__(self, network: Network, context: int, eos_token_id: int, threads: int = 1) -> None:
        self.network, self.context, self.eos_token_id = network, context, eos_token_id
        self.vocab_size, self.device = network.architecture.vocab_size, network.device
        self.exact_rows = network.shared_by_rows
        self._adapters = Adapters(network.device)
        self._crew = Crew(threads)
        self.reserve(1)
        self.slot_bytes = self._cache.slot_bytes

    def reserve(self, slots: int) -> None:
        """Make room for so many sequences; all that was kept before is gone."""
        a, network = self.network.architecture, self.network
        dtype = kept_in(network)
        self._cache = Cache(a.n_layer, slots, a.n_head, self.context, a.head_width, dtype, network.device)

    def forward(self, rows: Rows) -> Tensor:
        """Logits [wanted, vocab] in fp32 of the wanted rows; K/V of all rows are kept."""
        return torch.cat(self._each(self._logits, rows))

    def best(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The likeliest token of each wanted row, and whether all its logits are finite, both on the CPU."""
        found = self._each(lambda part: best_of(self._logits(part)), rows)
        tokens, finite = zip(*found, strict=True)
        return torch.cat(tokens).cpu(), torch.cat(finite).cpu()

    @torch.inference_mode()
    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
        """Give slot moves[i][1] the first positions[i] positions of slot moves[i][0], all as if at once."""
        self._cache.copy(moves, positions)

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Forget a slot whose numbers were not finite, or may not have been."""
        self._cache.clear(slot)

    def adapt(self, adapter: "Adapter") -> int:
        """Keep a LoRA adapter; its number for `Rows.adapters`."""
        return self._adapters.add(adapter)

    def forget(self, adapter: int) -> None:
        """Let an adapter go; its number may be given again."""
        self._adapters.remove(adapter)

    def _each(self, work: Callable[[Part], Result], rows: Rows) -> list[Result]:
        """`work` for all rows; where rows are shared among threads, for parts of them side by side."""
        if not self.network.shared_by_rows:  # two threads inside each operator were slower at every size
            return [work(Part(rows))]
        return self._crew.run(work, parted(rows, self._crew.threads, len(self.network.blocks)))

    @torch.inference_mode()
    def _logits(self, part: Part) -> Tensor:
        network, rows = self.network, part.rows
        planned = plan(self._cache, rows)
        adapted = self._adapters.of(rows.adapters)
        a = network.architecture
        count, filled = len(rows.tokens), filled_up(len(rows.tokens))
        nobody = [0] * (filled - count)
        x = network.embed(rows.tokens + nobody, rows.positions + nobody)
        for number, block in enumerate(network.blocks):

            def attend(query_key_value: Tensor, layer: int = number) -> Tensor:
                split = query_key_value[:count].to(self._cache.dtype).view(-1, 3, a.n_head, a.head_width)
                query, key, value = split.unbind(1)
                self._cache.keep(layer, key, value, planned.places)
                part.kept(layer)
                seen = look_back(self._cache, layer, query * a.attention_scale(layer), planned).float()
                return seen if count == filled else pad(seen, (0, 0, 0, filled - count))

            x = block.forward(x, attend, None if adapted is None else adapted.layer(number))
        if not rows.wanted:  # all were the middle of prompts
            return x.new_empty(0, self.vocab_size)
        wanted = rows.wanted + rows.wanted[:1] * (filled_up(len(rows.wanted)) - len(rows.wanted))
        return network.head(network.last_norm(x[wanted]))[: len(rows.wanted)]


def best_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits [rows, vocab] to the id of the largest, the lowest of equals, and whether all are finite."""
    vocab = logits.shape[1]
    whole = vocab - vocab % BLOCK
    largest = logits[:, :whole].view(len(logits), whole // BLOCK, BLOCK).amax(2)
    if whole < vocab:
        largest = torch.cat((largest, logits[:, whole:].amax(1, keepdim=True)), 1)
    within = torch.arange(BLOCK, device=logits.device)
    places = (largest.argmax(1, keepdim=True) * BLOCK + within).clamp_(max=vocab - 1)
    tokens = places.gather(1, logits.gather(1, places).argmax(1, keepdim=True)).squeeze(1)
    finite = largest.amax(1).isfinite() & logits.amin(1).isfinite()
    return tokens, finite


def filled_up(rows: int) -> int:
    """How many rows go along for so many: a product of a new shape takes long to prepare."""
    if rows <= 4:
        return rows
    return -(-rows // 4) * 4 if rows <= 32 else -(-rows // 16) * 16


def kept_in(network: Network) -> torch.dtype:
    """The type of K/V: 16 bits, IEEE's, where the method allows it."""
    return torch.float32 if network.method == "fp32" else torch.float16
