"""A batch says what each of its sequences would say alone."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.decoding.samples import EOS, asking, drawn, filters, normal, processors, sequence
from worker.decoding.drawing import at_blocks, groups_of
from worker.decoding.sampling import Choices, sample
from worker.sequence import Sequence

VOCAB = 3000  # wide enough for every way to draw


def requests() -> st.SearchStrategy[dict[str, Any]]:
    """Any processors, any filters, greedy or not."""
    greedy = st.fixed_dictionaries({"temperature": st.just(0.0), "top_p": st.sampled_from([0.5, 1.0])})
    return st.builds(
        lambda before, after, seed, shown: before | after | {"seed": seed, "logprobs": shown},
        st.one_of(st.just({}), processors(VOCAB)),
        st.one_of(greedy, filters(2500)),
        st.integers(0, 2**63 - 1),
        st.one_of(st.none(), st.integers(0, 5)),
    )


def talk(due: list[Sequence], seeds: list[int], steps: int) -> None:
    """Say a few tokens. What a row's model thinks depends on its own seed and step."""
    choices = Choices.of(due, VOCAB, EOS, "cpu")
    for step in range(steps):
        logits = torch.cat([normal(seed + step, 1, VOCAB, 2.0 + seed % 5) for seed in seeds])
        draw = sample(logits, choices, due)
        assert all(draw.finite)
        for one, token, logprob in zip(due, draw.tokens, draw.logprobs, strict=True):
            one.tokens.append(token)
            if logprob:
                one.logprobs.append(logprob)


@given(rows=st.lists(st.tuples(requests(), st.integers(0, 2**31), st.integers(0, 9)), min_size=2, max_size=9))
@settings(max_examples=60, deadline=None)
def test_a_row_says_the_same_in_any_company(rows: list[tuple[dict[str, Any], int, int]]) -> None:
    def batch() -> list[Sequence]:
        return [Sequence([seed % VOCAB, 7, 8] * 3, asking(**wanted), index) for wanted, seed, index in rows]

    together, alone = batch(), batch()
    talk(together, [seed for _, seed, _ in rows], 3)
    for (_, seed, _), one in zip(rows, alone, strict=True):
        talk([one], [seed], 3)
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == other.logprobs  # to the bit


@given(wanted=filters(2500), seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_weights_are_the_same_to_the_bit_in_any_company(wanted: dict[str, Any], seed: int, rows: int) -> None:
    logits = normal(seed, rows, VOCAB)
    edges = torch.linspace(0, 1 - 2**-40, rows, dtype=torch.float64)
    (one,) = groups_of([asking(**wanted)], VOCAB, "cpu")
    alone = [one.drawn(logits[row : row + 1].clone(), edges[row : row + 1]).item() for row in range(rows)]
    asked = [asking(**wanted)] * rows
    together = torch.empty(rows, dtype=torch.long)
    for group in groups_of(asked, VOCAB, "cpu"):
        together[group.rows] = group.drawn(logits, edges[group.rows])
    assert together.tolist() == alone


@pytest.mark.parametrize("wanted", [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.7}], ids=str)
def test_frequencies_follow_the_distribution(wanted: dict[str, Any]) -> None:
    rows, steps, vocab = 100, 200, 700  # more than one block
    logits = normal(1, 1, vocab, 2.0)
    heat = wanted.get("temperature", 1.0)
    weights = (logits[0] / heat).double().softmax(-1)
    order = weights.argsort(descending=True)
    cut = wanted.get("top_k") or int((weights[order].cumsum(-1) < wanted.get("top_p", 2.0)).sum()) + 1
    weights[order[int(cut) :]] = 0
    expected = weights / weights.sum() * rows * steps
    due = [sequence(seed=seed, **wanted) for seed in range(rows)]
    choices = Choices.of(due, vocab, EOS, "cpu")
    seen = torch.zeros(vocab, dtype=torch.double)
    for _ in range(steps):
        tokens = sample(logits.repeat(rows, 1), choices, due).tokens
        for one, token in zip(due, tokens, strict=True):
            one.tokens.append(token)
        seen += torch.bincount(torch.tensor(tokens), minlength=vocab)
    assert seen[expected == 0].sum() == 0
    common = expected >= 5
    square = float(((seen - expected)[common] ** 2 / expected[common]).sum())
    freedom = int(common.sum())
    assert abs(square - freedom) < 5 * math.sqrt(2 * freedom)


def test_the_ends_of_the_unit_interval_never_draw_the_impossible() -> None:
    weights = torch.zeros(2, 600)
    weights[:, [100, 300, 599]] = 1 / 3
    tokens = at_blocks(weights, torch.tensor([0.0, 1 - 2**-40], dtype=torch.double))
    assert tokens.tolist() == [100, 599]


@pytest.mark.parametrize("processing", [{}, {"presence_penalty": 1.0}], ids=str)
def test_temperature_zero_takes_the_likeliest_and_of_equals_the_lowest_id(
    processing: dict[str, Any],
) -> None:
    logits = normal(2, 3, 4000)
    logits[2, [77, 1999, 3999]] = 99.0
    wanted = [0.0, 2.0, 0.0]
    tokens = drawn(logits, [sequence(temperature=heat, **processing) for heat in wanted]).tokens
    assert (tokens[0], tokens[2]) == (int(logits[0].argmax()), 77)


def test_end_of_text_is_not_drawn_before_min_tokens() -> None:
    logits = torch.zeros(3, 10)
    logits[:, EOS] = 50.0
    due = [
        sequence(said=[5] * 4, min_tokens=5, temperature=0),
        sequence(said=[5] * 5, min_tokens=5, temperature=0),
        sequence(temperature=0),
    ]
    assert [token == EOS for token in drawn(logits, due).tokens] == [False, True, True]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "wanted",
    [
        {"temperature": 0},
        {"top_k": 3, "top_p": 0.5},
        {"top_k": 300, "typical_p": 0.5},
        {"top_p": 0.5},
        {},
        {"min_p": 0.1},
        {"bad_words": ((400,),), "logprobs": 3},  # what is banned is not hidden
        {"typical_p": 0.5},
    ],
    ids=str,
)
def test_a_row_that_is_not_finite_is_told_apart(bad: float, wanted: dict[str, Any]) -> None:
    logits = normal(3, 3, VOCAB)
    alone = [drawn(logits[row : row + 1], [sequence(seed=row, **wanted)]).tokens[0] for row in range(3)]
    logits[1, 400] = bad
    draw = drawn(logits, [sequence(seed=row, **wanted) for row in range(3)])
    assert draw.finite == [True, False, True]
    assert (draw.tokens[0], draw.tokens[2]) == (alone[0], alone[2])
    assert 0 <= draw.tokens[1] < VOCAB


def test_whose_every_token_is_banned_says_end_of_text() -> None:
    nothing = tuple((token,) for token in range(10))
    due = [sequence(bad_words=nothing, **wanted) for wanted in ({}, {"temperature": 0}, {"top_p": 0.5})]
    draw = drawn(normal(1, 3, 10), due)
    assert (draw.tokens, draw.finite) == ([EOS] * 3, [True] * 3)


@pytest.mark.parametrize(
    ("wanted", "plain"),
    [
        ({"top_p": 0.5, "stop_token_ids": (3,)}, True),
        ({"temperature": 1}, False),
        ({"logprobs": 0}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"min_tokens": 1}, False),
        ({"logit_bias": {1: 1}}, False),
    ],
    ids=str,
)
def test_logits_are_needed_only_where_somebody_asks_for_more_than_the_likeliest(
    wanted: dict[str, Any], plain: bool
) -> None:
    due = [sequence(temperature=0), sequence(**{"temperature": 0} | wanted)]
    assert Choices.of(due, 10, EOS, "cpu").plain is plain


def test_who_is_to_be_scored_needs_logits() -> None:
    scored = Sequence([1], asking(temperature=0), scored=True)
    assert not Choices.of([scored], 10, EOS, "cpu").plain


def test_nobody_is_a_batch_too() -> None:
    assert Choices.of([], 10, EOS, "cpu").plain
