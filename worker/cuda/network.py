"""One pass of a fixed shape: products, and attention over slots, with nothing left for Python to decide."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from worker.cuda.cache import CudaCache
from worker.cuda.shapes import PIECE, Shape
from worker.lora import Adapted
from worker.network import Network


def logits_of(
    network: Network, cache: CudaCache, shape: Shape, packed: Tensor, adapted: Adapted | None = None
) -> Tensor:
    """Logits [wanted, vocab] in fp32 of the shape's wanted rows; keys and values of all rows are kept."""
    tokens, positions, pieces, wanted = shape.split(packed)
    singles = torch.arange(shape.singles, device=packed.device)
    slots = torch.cat((singles, pieces[:, None].expand(-1, PIECE).flatten()))
    places = torch.where(positions < 0, cache.nowhere, positions)
    positions = positions.clamp(min=0)
    look = _Look(network, cache, shape, pieces, _mask(positions, shape.context, cache.dtype))
    x = network.tokens(tokens).add_(network.positions(positions))
    heads, width = network.architecture.n_head, network.architecture.head_width
    for number, block in enumerate(network.blocks):

        def attend(query_key_value: Tensor, layer: int = number) -> Tensor:
            split = query_key_value.view(-1, 3, heads, width)
            cache.keep(layer, split[:, 1:], slots, places)
            return look.back(layer, split[:, 0].to(cache.dtype))

        x = block.forward(x, attend, None if adapted is None else adapted.layer(number))
    return network.head(network.last_norm(x.index_select(0, wanted)))


class _Look:
    """How the rows of one pass look back; the same for every layer."""

    def __init__(
        self, network: Network, cache: CudaCache, shape: Shape, pieces: Tensor, mask: Tensor
    ) -> None:
        self._architecture, self._cache, self._shape, self._pieces = (
            network.architecture,
            cache,
            shape,
            pieces,
        )
        self._single_mask = mask[: shape.singles, None, None]
        self._piece_mask = mask[shape.singles :].view(shape.pieces, 1, PIECE, shape.context)

    def back(self, layer: int, query: Tensor) -> Tensor:
        """query [rows, heads, width] to what each row sees, fp32 [rows, heads * width]."""
        shape, cache, scale = self._shape, self._cache, self._architecture.attention_scale(layer)
        seen = []
        if shape.singles:
            asked = query[: shape.singles, :, None]
            keys, values = cache.first(layer, shape.singles, shape.context)
            found = scaled_dot_product_attention(asked, keys, values, self._single_mask, scale=scale)
            seen.append(found.flatten(1))
        if shape.pieces:
            asked = query[shape.singles :].view(shape.pieces, PIECE, *query.shape[1:]).transpose(1, 2)
            keys, values = cache.some(layer, self._pieces, shape.context)
            found = scaled_dot_product_attention(asked, keys, values, self._piece_mask, scale=scale)
            seen.append(found.transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat(seen).float()


def _mask(positions: Tensor, context: int, dtype: torch.dtype) -> Tensor:
    """[rows, context]: 0 up to and including each row's position, minus infinity behind it.

    In numbers, not in booleans, which every layer would turn into numbers again.
    """
    behind = torch.arange(context, device=positions.device) > positions[:, None]
    return torch.zeros(behind.shape, dtype=dtype, device=positions.device).masked_fill_(behind, -torch.inf)
