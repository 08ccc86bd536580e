"""What the model thought of tokens: log-softmax of its raw logits, before penalties and temperature."""

import torch
from torch import Tensor

from worker.decoding.ranking import highest
from worker.sequence import Logprob
from worker.transfer import read, sent


@torch.inference_mode()
def logprobs_of(logits: Tensor, tokens: list[int], top: int) -> list[Logprob]:
    """Of `tokens[i]` after row i of `logits` [n, vocab], with the `top` likeliest beside it."""
    return recorded(logits.log_softmax(-1), sent(tokens, logits.device, torch.long), [top] * len(tokens))


def recorded(beliefs: Tensor, tokens: Tensor, tops: list[int]) -> list[Logprob]:
    """From log-probabilities [n, vocab], `tokens` [n], and how many alternatives each row wants."""
    ids = tokens[:, None]
    widest = min(max(tops, default=0), beliefs.shape[-1])
    if widest:
        ids = torch.cat((ids, highest(beliefs, widest)), 1)
    likely = beliefs.gather(1, ids)
    numbers = read(torch.stack((ids.double(), likely.double()), 2)).tolist()  # fp64 holds both exactly
    return [
        Logprob(int(token), logprob, tuple((int(other), value) for other, value in others[:top]))
        for ((token, logprob), *others), top in zip(numbers, tops, strict=True)
    ]
