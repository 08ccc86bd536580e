"""The loss that the starter is judged by."""

import contextlib

import torch
from torch.nn import functional
from transformers import GPT2LMHeadModel


def half_precision() -> contextlib.AbstractContextManager[None]:
    """Matrix products in bf16, weights and sums in fp32."""
    return torch.autocast("cpu", torch.bfloat16)


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, stream: torch.Tensor, context: int, batch: int = 8) -> float:
    """Nats per token over the whole stream [tokens], in blocks that each see only themselves."""
    total, count = 0.0, 0
    whole = (len(stream) - 1) // context * context
    starts = torch.split(torch.arange(0, whole, context), batch)
    blocks = [stream[start[:, None] + torch.arange(context + 1)] for start in starts]
    if whole < len(stream) - 1:
        blocks.append(stream[None, whole:])  # the last block is shorter
    for block in blocks:
        logits = model(input_ids=block[:, :-1]).logits
        total += float(
            functional.cross_entropy(logits.flatten(0, 1).float(), block[:, 1:].flatten(), reduction="sum")
        )
        count += block[:, 1:].numel()
    return total / count
