"""What the engine calls a `Model` on a GPU: passes of few shapes, each recorded once over tensors that stay.

`reserve` records every shape, on the thread that loads the model. A pass then copies its integers to the
device, starts one graph, and leaves logits, likeliest tokens and whether all is finite where they always
are; only `best` waits, for one small read. Two kinds of passes run operator by operator: those with LoRA
adapters, since any of them may be let go, and those in which a prompt's own tokens are scored, since they
want any number of logits.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worker.cuda.cache import CudaCache
from worker.cuda.layout import Layout, lay_out
from worker.cuda.network import logits_of
from worker.cuda.recorder import Graphs, Recorder, Work
from worker.cuda.shapes import Shape, Shapes
from worker.lora import Adapters
from worker.model import best_of
from worker.network import Network
from worker.quantize.methods import float_type
from worker.rows import Rows
from worker.transfer import read, send, sent

if TYPE_CHECKING:
    from worker.adapters import Adapter

Ran = tuple[Tensor, Tensor]
"""Of a pass's wanted rows: logits [wanted, vocab], and [wanted, 2], each one's likeliest token and 1 or 0."""

_ALIGNED = 64  # positions: fast attention wants each row of a mask to begin at a round address


class CudaGPT2:
    """A network and the K/V of its sequences; one thread at a time."""

    exact_rows = False  # products and attention add in an order that depends on the shape

    def __init__(
        self, network: Network, context: int, eos_token_id: int, recorder: Callable[[], Recorder] = Graphs
    ) -> None:
        a = network.architecture
        self.network, self.context, self.eos_token_id = network, context, eos_token_id
        self.vocab_size, self.device = a.vocab_size, network.device
        self._dtype = float_type(network.method)
        self._positions = -(-context // _ALIGNED) * _ALIGNED
        self.slot_bytes = 2 * a.n_layer * (self._positions + 1) * a.n_embd * self._dtype.itemsize
        self._adapters = Adapters(network.device)
        self._recorder = recorder
        self._recorded: dict[Shape, Work] = {}
        self._cache = self._room(0)

    @torch.inference_mode()
    def reserve(self, slots: int) -> None:
        """Make room for so many sequences, and record all passes over them; what was kept before is gone."""
        device = self.device
        self._recorded.clear()  # before the memory that it works on
        self._shapes = Shapes.of(slots, self._positions)
        shapes = self._shapes.everyone()
        most = max(shape.wanted for shape in shapes)
        self._cache = self._room(0)  # two at a time may be too much
        self._cache = self._room(slots)
        self._packed = torch.zeros(max(shape.numbers for shape in shapes), dtype=torch.long, device=device)
        self._logits = torch.zeros(most, self.vocab_size, device=device)
        self._found = torch.zeros(most, 2, dtype=torch.long, device=device)
        recorder = self._recorder()
        for shape in shapes:
            self._recorded[shape] = recorder.record(self._work(shape))

    @torch.inference_mode()
    def forward(self, rows: Rows) -> Tensor:
        """Logits [wanted, vocab] in fp32 of the wanted rows, good until the next pass."""
        return self._run(rows, lambda ran: ran[0])

    @torch.inference_mode()
    def best(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The likeliest token of each wanted row, and whether all its logits are finite, both on the CPU."""
        tokens, finite = read(self._run(rows, lambda ran: ran[1])).unbind(1)
        return tokens, finite.bool()

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

    def _room(self, slots: int) -> CudaCache:
        a = self.network.architecture
        return CudaCache(a.n_layer, slots, a.n_head, self._positions, a.head_width, self._dtype, self.device)

    def _run(self, rows: Rows, part: Callable[[Ran], Tensor]) -> Tensor:
        """A part of what all passes come to."""
        layouts = list(lay_out(rows, self._shapes))
        if len(layouts) == 1:
            return part(self._pass(layouts[0]))
        return torch.cat([part(self._pass(layout)).clone() for layout in layouts])

    def _pass(self, layout: Layout) -> Ran:
        shape, wanted = layout.shape, layout.wanted
        recorded = self._recorded.get(shape)
        if recorded is None or layout.adapters:
            packed, adapted = sent(layout.packed, self.device), self._adapters.of(layout.adapters)
            logits = logits_of(self.network, self._cache, shape, packed, adapted)[:wanted]
            return logits, _found(logits)
        send(layout.packed, self._packed[: shape.numbers])
        recorded()
        return self._logits[:wanted], self._found[:wanted]

    def _work(self, shape: Shape) -> Work:
        """A pass from and to the tensors that stay."""
        network, cache, packed = self.network, self._cache, self._packed[: shape.numbers]
        all_logits, all_found = self._logits[: shape.wanted], self._found[: shape.wanted]

        def work() -> None:
            logits = logits_of(network, cache, shape, packed)
            all_logits.copy_(logits)
            all_found.copy_(_found(logits))

        return work


def _found(logits: Tensor) -> Tensor:
    """logits [rows, vocab] to [rows, 2]: the likeliest token, and 1 where all are finite."""
    tokens, finite = best_of(logits)
    return torch.stack((tokens, finite.long()), 1)
