"""A text from a model in training; greedy, so that no random number is drawn."""

from typing import Any

import torch
from tokenizers import Tokenizer

from trainer.cross_entropy import LEFT_OUT
from trainer.dataset import Rows

PROMPT, CONTINUATION = 24, 48  # tokens at most


@torch.no_grad()
def continued(model: Any, prompt: list[int], end: int, context: int) -> list[int]:
    """The likeliest next token, again and again, up to the end of the text."""
    device = next(model.parameters()).device
    given, kept = torch.tensor([prompt], device=device), None
    tokens: list[int] = []
    while len(tokens) < CONTINUATION and len(prompt) + len(tokens) < context:
        out = model(input_ids=given, past_key_values=kept, use_cache=True)
        kept = out.past_key_values
        token = int(out.logits[0, -1].argmax())
        if token == end:
            break
        tokens.append(token)
        given = torch.tensor([[token]], device=device)
    return tokens


def prompt_of(rows: Rows) -> list[int]:
    """How the first row begins; where answers are learned, what stands before the first."""
    row = rows[0]
    tokens, labels = row["input_ids"].tolist(), row["labels"].tolist()
    if not rows.corpus.facts.has_answers:
        return tokens[:PROMPT]
    first = next((index for index, label in enumerate(labels) if label != LEFT_OUT), 0)
    return tokens[: first + 1]  # a label belongs to the token before


def sentence(tokenizer: Tokenizer, step: int, prompt: list[int], tokens: list[int]) -> str:
    """What to say of a sample."""
    begin = tokenizer.decode(prompt[-PROMPT:], skip_special_tokens=False)
    return f"Sample at step {step}: {begin!r} -> {tokenizer.decode(tokens, skip_special_tokens=False)!r}"
