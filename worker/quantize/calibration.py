"""The only place that looks at what a text makes of each product's inputs, for int8_static and int4_weight.

A range is the largest absolute input seen. On the starter, ranges of the least squared error and percentiles
lost as much or more: what they clip is rare and matters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jobs.errors import ModelUnavailable
from worker.linears import Linear
from worker.model import GPT2, Network
from worker.rows import Rows

TOKENS = 16_384  # of the text, in pieces as long as the context, spread over all of it
ROWS = 128  # of one pass
PARTS = {
    "query_key_value": "attn.c_attn",
    "attention_out": "attn.c_proj",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
}  # of a Block, and their names in a checkpoint


class Watched:
    """A product that remembers what it was given."""

    def __init__(self, product: Linear, with_moments: bool) -> None:
        self._product, self._with_moments = product, with_moments
        self.largest = torch.zeros(())
        self.moments = torch.zeros(())

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        self.largest = torch.maximum(self.largest, x.abs().max())
        if self._with_moments:
            self.moments = self.moments + x.t() @ x
        return self._product(x)


@dataclass(frozen=True)
class Calibration:
    """What a text's inputs x [rows, in] to each product are like, by its name without ".weight"."""

    ranges: dict[str, float]  # the largest |x|
    moments: dict[str, Tensor]  # x'x [in, in], for int4_weight; empty where nobody asked


def calibrate(
    network: Network, tokens: list[int], with_moments: bool, said: Callable[[int, int], None]
) -> Calibration:
    """Run an fp32 network over a text's tokens. `said` hears how many pieces are done, and of how many.

    Moments take 4 x in x in bytes a product: 0.5 GB for GPT-2's 124 M parameters.

    Raises:
        ModelUnavailable: the inputs of a product are not finite.
    """
    context = network.architecture.n_positions
    watched, products = _watch(network, with_moments)
    model = GPT2(watched, context, 0)
    pieces = _pieces(tokens, context)
    for done, piece in enumerate(pieces, 1):
        for start in range(0, len(piece), ROWS):
            model.forward(_rows(piece[start : start + ROWS], start))
        said(done, len(pieces))
    for name, product in products.items():
        if not product.largest.isfinite():
            raise ModelUnavailable(f"the inputs of {name} are not finite on the calibration text.")
    return Calibration(
        ranges={name: product.largest.item() for name, product in products.items()},
        moments={name: product.moments for name, product in products.items() if product.moments.dim()},
    )


def _pieces(tokens: list[int], context: int) -> list[list[int]]:
    """Pieces of at most `context` tokens, about TOKENS together, evenly from the whole text."""
    starts = range(0, len(tokens), context)
    every = -(-len(starts) // max(1, TOKENS // context))
    return [tokens[start : start + context] for start in starts[::every]]


def _rows(tokens: list[int], start: int) -> Rows:
    """Consecutive tokens of one text as one pass; all are wanted, so that the head sees each."""
    rows = Rows()
    rows.wanted.extend(rows.add_chunk(0, start, tokens))
    return rows


def _watch(network: Network, with_moments: bool) -> tuple[Network, dict[str, Watched]]:
    """The network with every product watched, and these by name."""
    head = Watched(network.head, with_moments=False)
    products = {"wte" if network.architecture.tie_word_embeddings else "lm_head": head}
    blocks = []
    for layer, block in enumerate(network.blocks):
        inside: dict[str, Any] = {part: Watched(getattr(block, part), with_moments) for part in PARTS}
        products |= {f"h.{layer}.{PARTS[part]}": product for part, product in inside.items()}
        blocks.append(replace(block, **inside))
    return replace(network, blocks=blocks, head=head), products
