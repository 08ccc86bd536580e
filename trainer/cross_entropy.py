"""The loss of a language model's head, without ever holding all its logits in fp32."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LEFT_OUT = -100  # a label that is not learned
CHUNK_BYTES = 8 << 20  # fp32 logits that are worked on at once: several passes over them stay in the cache
GROUP = 2048  # tokens whose logits, then their gradient, are held in the precision of the products


def mean(hidden: Tensor, weight: Tensor, labels: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies in nats over `count`, and how many labels had the largest logit.

    hidden [rows, tokens, width], weight [vocab, width], labels [rows, tokens]. Only where something is
    learned are there logits.
    """
    chosen = (labels.flatten() != LEFT_OUT).nonzero().squeeze(1)
    hidden, labels = hidden.flatten(0, 1), labels.flatten()[chosen]
    if hidden.device.type == "cpu":
        loss, right = _Chunked.apply(hidden, weight, labels, chosen, count)  # type: ignore[no-untyped-call]
        return loss, right
    logits = functional.linear(hidden[chosen], weight).float()
    right = (logits.detach().argmax(-1) == labels).sum()
    return functional.cross_entropy(logits, labels, reduction="sum") / count, right


class _Chunked(torch.autograd.Function):
    """Takes the gradients in the forward pass, while the logits are in the cache.

    For GPT-2's vocabulary the logits of 1,024 tokens are 206 MB in fp32, over which log-softmax, its gradient
    and the casts pass eight times. Head and loss, forward and back, in bf16 on one Zen 4 core: 1.35 s, of
    which the products need about 1.25; torch's own 1.39 to 1.61.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chosen: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        scale = float(1 / count)
        loss = torch.zeros((), dtype=torch.float32)
        right = torch.zeros((), dtype=torch.int64)
        of_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight: Tensor | None = None
        with torch.autocast("cpu", enabled=False):
            narrow = weight.to(dtype)
            for start in range(0, len(labels), GROUP):
                group = chosen[start : start + GROUP]
                seen = hidden[group].to(dtype)
                lost, found, slopes = _slopes(
                    seen, narrow, labels[start : start + GROUP], any(ctx.needs_input_grad)
                )
                loss += lost
                right += found
                if of_hidden is not None:
                    of_hidden[group] = (slopes @ narrow).to(of_hidden.dtype).mul_(scale)
                if ctx.needs_input_grad[1]:
                    part = slopes.T @ seen.mul_(scale)
                    of_weight = part.to(weight.dtype) if of_weight is None else of_weight.add_(part)
        if of_weight is None and ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight)
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.mark_non_differentiable(right)
        return loss * scale, right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.saved_tensors
        if grads[0] != 1:  # distributed training multiplies by the number of processes
            found = [one if one is None else one * grads[0] for one in found]
        return *found, None, None, None


def _slopes(hidden: Tensor, weight: Tensor, labels: Tensor, learns: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss, right answers, and the loss's gradient by the logits [tokens, vocab], in their place."""
    loss = torch.zeros((), dtype=torch.float32)
    right = torch.zeros((), dtype=torch.int64)
    slopes = hidden @ weight.T
    rows = max(1, CHUNK_BYTES // (4 * len(weight)))
    for start in range(0, len(labels), rows):
        wanted = labels[start : start + rows, None]
        logits = slopes[start : start + rows].float()
        most = logits.amax(-1, keepdim=True)
        picked = logits.gather(-1, wanted)
        right += (picked == most).sum()
        total = logits.sub_(most).exp_().sum(-1, keepdim=True)
        loss += (total.log() + most - picked).sum()
        if learns:  # softmax, less one at the label
            logits.div_(total).scatter_add_(-1, wanted, logits.new_full(wanted.shape, -1.0))
            slopes[start : start + rows] = logits
    return loss, right, slopes
