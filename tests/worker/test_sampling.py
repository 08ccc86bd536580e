"""Tokens are drawn as transformers would filter them, each sequence from a stream of its own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from jobs.inputs import MAX_SEED, Sampling
from worker import sampling as product
from worker.decoding.sampling import Choices, keep_top_k, keep_top_p, sample, streams, uniforms

EOS = 0


def drawn(logits: torch.Tensor, asked: list[Sampling], steps: list[int] | None = None) -> list[int]:
    choices = Choices.of([(sampling, 0) for sampling in asked], "cpu")
    return sample(logits, choices, steps or [0] * len(asked), EOS).tokens


def asking(**wanted: float) -> Sampling:
    return Sampling.model_validate({"max_tokens": 9, "seed": 0} | wanted)


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.floats(0.05, 2),
            st.one_of(st.just(0), st.integers(1, 400)),
            st.one_of(st.just(1.0), st.floats(0.01, 0.99)),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=150, deadline=None)
def test_filters_keep_what_transformers_keeps(rows: list[tuple[int, float, int, float]]) -> None:
    vocab = 300
    logits = torch.stack(
        [torch.randn(vocab, generator=torch.Generator().manual_seed(row[0])) * 4 for row in rows]
    )
    asked = [asking(temperature=heat, top_k=top_k, top_p=top_p) for _, heat, top_k, top_p in rows]
    choices = Choices.of([(sampling, 0) for sampling in asked], "cpu")
    kept = product._filtered(logits / choices.temperature, choices)
    for row, (_, heat, top_k, top_p) in enumerate(rows):
        scores = TemperatureLogitsWarper(heat)(None, logits[row : row + 1])
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        expected = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
        different = (expected[0] != kept[row]).nonzero()[:, 0]
        # the sums are added in another order: a token on the very edge may fall to the other side
        reached = _mass_before(scores[0], different)
        assert all(abs(mass - top_p) < 1e-5 for mass in reached)


def _mass_before(scores: torch.Tensor, tokens: torch.Tensor) -> list[float]:
    probabilities = scores.double().softmax(-1)
    return [float(probabilities[scores > scores[token]].sum()) for token in tokens]


def test_the_whole_vocabulary_is_sorted_where_a_shortlist_does_not_suffice() -> None:
    flat = torch.zeros(1, 5000)
    flat[0, 4999] = 0.1
    kept = keep_top_p(flat, torch.tensor([[0.5]])).isfinite()
    assert kept[0, 4999]
    assert 2490 < int(kept.sum()) < 2510


def test_ties_with_the_last_of_top_k_stay() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    kept = keep_top_k(scores, torch.tensor([[2]]), 2)
    assert kept.isfinite().tolist() == [[False, True, True, True, False]]


@pytest.mark.parametrize("wanted", [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.7}], ids=str)
def test_frequencies_follow_the_distribution(wanted: dict[str, float]) -> None:
    count, vocab = 40_000, 700  # more than one block
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(1)) * 2
    one = Choices.of([(asking(**wanted), 0)], "cpu")
    expected = product._filtered((logits / one.temperature), one).softmax(-1)[0].double() * count
    seen = torch.zeros(vocab, dtype=torch.double)
    asked = Choices.of([(asking(seed=seed, **wanted), 0) for seed in range(200)], "cpu")
    for step in range(count // 200):
        tokens = sample(logits.expand(200, -1), asked, [step] * 200, EOS).tokens
        seen += torch.bincount(torch.tensor(tokens), minlength=vocab)
    assert seen[expected == 0].sum() == 0
    common = expected >= 5
    square = float(((seen - expected)[common] ** 2 / expected[common]).sum())
    freedom = int(common.sum())
    assert abs(square - freedom) < 5 * math.sqrt(2 * freedom)


@given(st.lists(st.tuples(st.integers(0, MAX_SEED), st.integers(0, 127), st.integers(0, 1023)), min_size=1))
@settings(max_examples=50, deadline=None)
def test_random_numbers_depend_on_seed_index_and_step_alone(rows: list[tuple[int, int, int]]) -> None:
    seeds, indexes, steps = (list(column) for column in zip(*rows, strict=True))
    together = uniforms(streams(seeds, indexes), steps)
    alone = [uniforms(streams([seed], [index]), [step])[0] for seed, index, step in rows]
    assert together.tolist() == alone
    assert all(0 <= number < 1 for number in alone)


def test_neighbouring_seeds_indexes_and_steps_are_not_related() -> None:
    size = 40
    grid = np.array([
        uniforms(streams([seed] * size, [index] * size), list(range(size)))
        for seed in range(size)
        for index in range(size)
    ]).reshape(size, size, size)  # fmt: skip
    assert len(np.unique(grid)) == size**3
    assert abs(grid.mean() - 0.5) < 0.005
    for axis in range(3):
        one, other = grid.take(range(size - 1), axis), grid.take(range(1, size), axis)
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_the_ends_of_the_unit_interval_never_draw_the_impossible() -> None:
    scores = torch.full((2, 600), -torch.inf)
    scores[:, [100, 300, 599]] = 0.0
    tokens = product.draw(scores, torch.tensor([0.0, 1 - 2**-40], dtype=torch.double))
    assert tokens.tolist() == [100, 599]


def test_temperature_zero_takes_the_likeliest_beside_others_that_sample() -> None:
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(2))
    tokens = drawn(logits, [asking(temperature=0), asking(temperature=2), asking(temperature=0)])
    best = logits.argmax(-1).tolist()
    assert (tokens[0], tokens[2]) == (best[0], best[2])


def test_a_row_draws_the_same_beside_any_neighbours() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(2))
    asked = [asking(seed=1), asking(seed=2, top_k=7), asking(seed=3, top_p=0.8), asking(temperature=0)]
    together = drawn(logits, asked, [3, 1, 4, 1])
    steps = [3, 1, 4, 1]
    assert together == [drawn(logits[row : row + 1], [asked[row]], [steps[row]])[0] for row in range(4)]


def test_end_of_text_is_not_drawn_before_min_tokens() -> None:
    logits = torch.zeros(3, 10)
    logits[:, EOS] = 50.0
    before = logits.clone()
    silent = asking(min_tokens=5, temperature=0)
    tokens = drawn(logits, [silent, silent, asking(temperature=0)], [4, 5, 0])
    assert [token == EOS for token in tokens] == [False, True, True]
    assert torch.equal(logits, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_row_that_is_not_finite_is_told_apart(bad: float, temperature: int) -> None:
    logits = torch.zeros(3, 600)
    logits[1, 400] = bad
    asked = [(asking(temperature=temperature, top_k=3, top_p=0.5), 0)] * 3
    assert sample(logits, Choices.of(asked, "cpu"), [0, 0, 0], EOS).finite == [True, False, True]
