"""A row's bits depend on its own sequence alone."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worker.kernels.conftest import Made, architecture, chunk, some_tokens, together
from worker.rows import Rows

PROMPTS = [some_tokens(length, seed) for seed, length in enumerate([1, 15, 16, 17, 33, 60, 90])]


@pytest.fixture(scope="module")
def many() -> Made:
    """With a vocabulary that does not end with a panel, and slots for strangers."""
    return Made(architecture(vocab_size=301, n_embd=96, n_head=6), slots=16)


@pytest.fixture(scope="module")
def alone(many: Made) -> list[Tensor]:
    """Logits of each prompt's rows, alone in slot 0, on one thread, in one piece."""
    torch.set_num_threads(1)
    return [many.model.forward(chunk(prompt)) for prompt in PROMPTS]


@given(
    seed=st.integers(0, 10**6), threads=st.sampled_from([1, 2, 3]), budget=st.sampled_from([1, 3, 7, 40, 200])
)
@settings(max_examples=25, deadline=None)
def test_bits_do_not_depend_on_company_slot_chunks_or_threads(
    many: Made, alone: list[Tensor], seed: int, threads: int, budget: int
) -> None:
    many.model.threads = threads
    choice = random.Random(seed)
    slots = choice.sample(range(16), len(PROMPTS))
    done = [0] * len(PROMPTS)
    while any(done[i] < len(prompt) for i, prompt in enumerate(PROMPTS)):
        parts: list[Rows] = []
        expected: list[Tensor] = []
        for i in choice.sample(range(len(PROMPTS)), len(PROMPTS)):
            count = min(choice.randint(0, budget), len(PROMPTS[i]) - done[i])
            if count:
                tokens = PROMPTS[i][done[i] : done[i] + count]
                parts.append(chunk(tokens, slots[i], done[i]))
                expected.append(alone[i][done[i] : done[i] + count])
                done[i] += count
        if parts:
            assert torch.equal(many.model.forward(together(*parts)), torch.cat(expected))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_stays_so_and_alone(poison: float) -> None:
    made = Made(architecture())
    expected = made.model.forward(chunk(PROMPTS[3], 1))
    made.weights["wpe.weight"][50] = poison  # type: ignore[index]
    made.model = type(made.model).build(made.architecture, made.weights, "int8", 100, 0)
    made.model.reserve(8)
    whole = some_tokens(60, 9)
    logits = made.model.forward(together(chunk(whole, 0), chunk(PROMPTS[3], 1)))
    sick, rows_before = logits[:60], logits[:50]
    assert not sick[50:].isfinite().any()
    assert rows_before.isfinite().all()
    assert torch.equal(logits[60:], expected)
    tokens, finite = made.model.best(together(chunk(whole, 0), chunk(PROMPTS[3], 1)))
    assert finite.tolist() == [True] * 50 + [False] * 10 + [True] * 17
    assert torch.equal(tokens[60:], expected.argmax(1))
    # the next sequence of that slot sees nothing of it, with and without clear()
    assert torch.equal(made.model.forward(chunk(PROMPTS[3], 0)), expected)
    made.model.clear(0)
    assert torch.equal(made.model.forward(chunk(PROMPTS[3], 0)), expected)


def test_static_int8_does_not_turn_nan_into_numbers() -> None:
    made = Made(architecture(), "int8_static")
    made.weights["wpe.weight"][3] = torch.nan  # type: ignore[index]
    made.model = type(made.model).build(made.architecture, made.weights, "int8_static", 100, 0)
    logits = made.model.forward(chunk([1, 2, 3, 4, 5]))
    assert logits[:3].isfinite().all()
    assert not logits[3:].isfinite().any()
