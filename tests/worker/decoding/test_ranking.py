"""Tokens have one order: highest score first, among equals the lowest id."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.decoding.ranking import highest


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 4),
    vocab=st.integers(1, 3000),
    part=st.floats(0, 1),
    levels=st.integers(1, 5000),
)
@settings(max_examples=200, deadline=None)
def test_the_first_of_a_stable_sort_come_in_its_order(
    seed: int, rows: int, vocab: int, part: float, levels: int
) -> None:
    width = max(1, int(vocab * part**4))  # mostly few among many
    chance = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels, (rows, vocab), generator=chance) / 7  # many are equal
    expected = scores.sort(dim=-1, descending=True, stable=True).indices[:, :width]
    assert torch.equal(highest(scores, width), expected)


@pytest.mark.parametrize("width", [1, 3, 600])
def test_equals_come_by_id_whatever_the_sign_of_their_zero(width: int) -> None:
    scores = torch.zeros(1, 600)
    scores[0, ::2] = -0.0
    assert highest(scores, width).tolist() == [list(range(width))]


def test_minus_infinity_comes_last() -> None:
    scores = torch.full((1, 500), -torch.inf)
    scores[0, 499] = -1e38
    assert highest(scores, 2).tolist() == [[499, 0]]
