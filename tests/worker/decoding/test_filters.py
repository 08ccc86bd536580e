"""Rows are filtered as transformers would, in its order, each by its own parameters."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from jobs.inputs import Sampling
from tests.worker.decoding.samples import asking, filters, normal
from worker.decoding.drawing import Nucleus, Ranked, Unranked, groups_of
from worker.decoding.filters import Filters
from worker.decoding.ranking import highest

VOCAB = 300


def expected(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [1, vocab] by transformers."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p < 1:
        warpers.append(TypicalLogitsWarper(sampling.typical_p))
    return warpers(None, logits.double()).softmax(-1)


def kept(logits: Tensor, asked: list[Sampling]) -> Tensor:
    """Probabilities [rows, vocab] by ours, with all tokens in order."""
    filters = Filters.of(asked, "cpu")
    ids = highest(logits, logits.shape[-1])
    ranked = logits.gather(1, ids)
    weights = filters.kept(filters.heated(ranked, ranked[:, :1]))
    return torch.zeros_like(weights).scatter_(1, ids, weights / weights.sum(-1, keepdim=True))


# derandomized: sums are added in another order, so one token in a million may cross an edge
@given(
    rows=st.lists(st.tuples(st.integers(0, 2**32 - 1), filters(400)), min_size=1, max_size=5),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_filters_keep_what_transformers_keeps_in_a_mixed_batch(
    rows: list[tuple[int, dict[str, Any]]],
) -> None:
    logits = torch.cat([normal(seed, 1, VOCAB) for seed, _ in rows])
    asked = [asking(**wanted) for _, wanted in rows]
    mine = kept(logits, asked)
    for row, sampling in enumerate(asked):
        wanted = expected(logits[row : row + 1], sampling)[0]
        seen = wanted > 1e-12
        assert torch.equal(mine[row] > 1e-12, seen), sampling
        torch.testing.assert_close(mine[row], wanted, rtol=1e-4, atol=1e-7)


@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.sampled_from([40, 300, 3000]),
    spread=st.sampled_from([0.5, 4.0]),
    wanted=filters(2500),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_tokens_are_drawn_as_often_as_transformers_thinks(
    seed: int, vocab: int, spread: float, wanted: dict[str, Any]
) -> None:
    sampling, logits = asking(**wanted), normal(seed, 1, vocab, spread)
    seen, points = _drawn_evenly(logits, sampling)
    assert (seen - expected(logits, sampling)[0] * points).abs().max() < 1.01  # an interval's ends


def _drawn_evenly(logits: Tensor, sampling: Sampling, points: int = 128) -> tuple[Tensor, int]:
    """How often each token is drawn at numbers evenly spread over [0, 1)."""
    evenly = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    many = logits.repeat(points, 1)
    tokens = [
        group.drawn(many, evenly[group.rows])
        for group in groups_of([sampling] * points, logits.shape[-1], "cpu")
    ]
    return torch.bincount(torch.cat(tokens), minlength=logits.shape[-1]), points


@pytest.mark.parametrize(
    ("wanted", "kind", "width"),
    [
        ({"temperature": 0}, Ranked, 64),
        ({"top_k": 64, "top_p": 0.5}, Ranked, 64),
        ({"top_k": 65}, Ranked, 256),
        ({"top_k": 257, "typical_p": 0.5}, Ranked, 1024),
        ({"top_k": 1025, "top_p": 0.5}, Ranked, 3000),
        ({"typical_p": 0.5}, Ranked, 3000),
        ({"top_k": 3000, "top_p": 0.5}, Nucleus, 1024),
        ({"top_p": 0.5, "min_p": 0.1}, Nucleus, 1024),
        ({"top_k": 9999}, Unranked, 0),
        ({"min_p": 0.1}, Unranked, 0),
    ],
    ids=str,
)
def test_only_as_many_tokens_are_put_in_order_as_must(wanted: dict[str, Any], kind: type, width: int) -> None:
    (group,) = groups_of([asking(**wanted)], 3000, "cpu")
    assert (type(group), group.width) == (kind, width)


@pytest.mark.parametrize("vocab", [300, 5000])
def test_ties_with_the_last_of_top_k_are_decided_by_the_lowest_id(vocab: int) -> None:
    """Transformers keeps all of them, however many."""
    logits = torch.zeros(1, vocab)
    logits[0, 200] = 0.5
    seen, _ = _drawn_evenly(logits, asking(top_k=3))
    assert seen.nonzero()[:, 0].tolist() == [0, 1, 200]


def test_ties_with_the_last_of_top_p_are_decided_by_the_lowest_id() -> None:
    """Transformers keeps whichever its sort puts last."""
    seen, _ = _drawn_evenly(torch.zeros(1, 10), asking(top_p=0.35))
    assert seen.nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_a_token_that_comes_after_top_p_is_exactly_reached_goes() -> None:
    """As in transformers, whose sum from the other end may round to the other side."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    seen, _ = _drawn_evenly(logits, asking(top_p=0.7499999))
    assert seen.nonzero()[:, 0].tolist() == [0, 1]
    seen, _ = _drawn_evenly(logits, asking(top_p=0.7500001))
    assert seen.nonzero()[:, 0].tolist() == [0, 1, 2]


def test_where_a_few_do_not_reach_top_p_all_are_put_in_order() -> None:
    flat = torch.zeros(1, 5000)
    flat[0, 4999] = 5.0
    seen, points = _drawn_evenly(flat, asking(top_p=0.5), 100)
    share = math.exp(5.0) / (4999 + math.exp(5.0))
    assert abs(seen[4999] - points * share / 0.5) < 1.01
    last = int(seen[:4999].nonzero()[-1])
    assert abs(last - (0.5 - share) * (4999 + math.exp(5.0))) < 50
    assert (seen[:4999] <= 1).all()


@given(seed=st.integers(0, 2**32 - 1), wanted=filters(400), spread=st.sampled_from([0.0, 1.0, 100.0, 1e30]))
@settings(max_examples=150, deadline=None)
def test_a_token_always_stays(seed: int, wanted: dict[str, Any], spread: float) -> None:
    logits = normal(seed, 1, VOCAB, spread)
    weights = kept(logits, [asking(**wanted)])
    assert weights.isfinite().all()
    assert (weights > 0).any()
    if not spread and wanted["typical_p"] == 1:
        assert weights[0, 0] > 0


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-6])
def test_the_coldest_temperatures_are_greedy_and_overflow_nothing(temperature: float) -> None:
    logits = normal(1, 1, VOCAB)
    for wanted in ({}, {"top_k": 5}, {"top_p": 0.9}):
        seen, points = _drawn_evenly(logits, asking(temperature=temperature, **wanted))
        assert seen[logits.argmax()] == points
