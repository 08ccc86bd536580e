"""What the model thought of tokens: log-softmax of its raw logits, before penalties and temperature."""

import torch
from torch import Tensor

from worker.decoding.ranking import highest
from worker.sequence import Logprob


@torch.inference_mode()
def logprobs_of(logits: Tensor, tokens: list[int], top: int) -> list[Logprob]:
    """Of `tokens[i]` after row i of `logits` [n, vocab], with the `top` likeliest beside it."""
    return recorded(logits.log_softmax(-1), torch.tensor(tokens).to(logits.device), [top] * len(tokens))


def recorded(beliefs: Tensor, tokens: Tensor, tops: list[int]) -> list[Logprob]:
    """From log-probabilities [n, vocab], `tokens` [n], and how many alternatives each row wants."""
    own = beliefs.gather(1, tokens[:, None])[:, 0].tolist()
    said = tokens.tolist()
    widest = min(max(tops, default=0), beliefs.shape[-1])
    if not widest:
        return [Logprob(token, logprob) for token, logprob in zip(said, own, strict=True)]
    ids = highest(beliefs, widest)
    likely = beliefs.gather(1, ids).tolist()
    return [
        Logprob(token, logprob, tuple(zip(row, values, strict=True))[:top])
        for token, logprob, row, values, top in zip(said, own, ids.tolist(), likely, tops, strict=True)
    ]
