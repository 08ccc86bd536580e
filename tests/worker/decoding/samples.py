"""Rows that ask for anything at random, and small helpers around them."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from jobs.inputs import Sampling
from worker.decoding.sampling import Choices, Draw, sample
from worker.sequence import Sequence

EOS = 0


def asking(**wanted: Any) -> Sampling:
    return Sampling.model_validate({"max_tokens": 99, "seed": 0} | wanted)


def sequence(prompt: list[int] | None = None, said: list[int] | None = None, **wanted: Any) -> Sequence:
    return Sequence(prompt or [1], asking(**wanted), tokens=said or [])


def normal(seed: int, rows: int, vocab: int, spread: float = 4.0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def drawn(logits: Tensor, due: list[Sequence]) -> Draw:
    """One step of a batch; `logits` stay as they are."""
    return sample(logits.clone(), Choices.of(due, logits.shape[-1], EOS, "cpu"), due)


def or_off(off: float, wanted: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(off), wanted)


def processors(vocab: int) -> st.SearchStrategy[dict[str, Any]]:
    token = st.integers(0, vocab - 1)
    return st.fixed_dictionaries({
        "logit_bias": st.dictionaries(token, st.floats(-100, 100, width=32), max_size=4),
        "repetition_penalty": or_off(1.0, st.floats(0.1, 5)),
        "presence_penalty": or_off(0.0, st.floats(-2, 2)),
        "frequency_penalty": or_off(0.0, st.floats(-2, 2)),
        "no_repeat_ngram_size": st.integers(0, 4),
        "bad_words": st.lists(
            st.lists(token, min_size=1, max_size=3).map(tuple), max_size=4, unique=True
        ).map(tuple),
        "min_tokens": st.integers(0, 6),
        "stop_token_ids": st.lists(token, max_size=2).map(tuple),
        "ignore_eos": st.booleans(),
    })  # fmt: skip


def filters(widest: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({
        "temperature": st.floats(0.05, 2),
        "top_k": or_off(0, st.integers(1, widest)),
        "top_p": or_off(1.0, st.floats(0.01, 0.99)),
        "min_p": or_off(0.0, st.floats(0.001, 1)),
        "typical_p": or_off(1.0, st.floats(0.05, 0.99)),
    })  # fmt: skip
