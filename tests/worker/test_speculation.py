"""Guesses cost nothing but time: what is said does not depend on them."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.errors import NumericalError
from tests.worker.conftest import (
    CONTEXT,
    EOS,
    VOCAB,
    Wrapped,
    finish,
    greedy,
    ours,
    random_prompts,
    run,
    weights_of,
)
from worker.engine import Engine
from worker.kernels import refusal
from worker.kernels.model import KernelGPT2
from worker.rows import Rows
from worker.sequence import Sequence
from worker.speculation import ROWS, Lookup, Speculation


class Exact(Wrapped):
    """The real model, row after row: each has the same bits in whatever pass it comes."""

    exact_rows = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.sizes: list[int] = []  # rows of each pass

    @torch.inference_mode()
    def forward(self, rows: Rows) -> torch.Tensor:
        self.sizes.append(len(rows.tokens))
        every = zip(rows.tokens, rows.slots, rows.positions, strict=True)
        ones = [Rows([token], [slot], [position], [], 1, [], [0]) for token, slot, position in every]
        logits = [self.inner.forward(one) for one in ones]
        return torch.cat([logits[row] for row in rows.wanted]) if rows.wanted else logits[0][:0]

    def best(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        most, tokens = self.forward(rows).max(-1)
        return tokens, most.isfinite()


def said(model: Any, tokenizer: Tokenizer, sequences: list[Sequence], *, speculate: bool) -> list[Any]:
    run(Engine(model, tokenizer, 4, 40, speculate=speculate), sequences)
    return [(sequence.tokens, sequence.text, sequence.finish_reason) for sequence in sequences]


@pytest.mark.parametrize(
    "wanted", [{"max_tokens": 40}, {"max_tokens": 40, "stop": ("the", "e", "o")}], ids=str
)
def test_guessing_changes_no_token(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, wanted: dict[str, Any]
) -> None:
    def sequences() -> list[Sequence]:
        prompts = [prompt * 2 for prompt in random_prompts(8, 12)]
        hot = [Sequence(prompt, greedy([1], 9, temperature=1, seed=4).sampling) for prompt in prompts[:3]]
        return [*(greedy(prompt, **wanted) for prompt in prompts), *hot]

    guessing, plain = Exact(ours(gpt2, "int8")), Exact(ours(gpt2, "int8"))
    one = said(guessing, tokenizer, sequences(), speculate=True)
    assert one == said(plain, tokenizer, sequences(), speculate=False)
    assert len(guessing.sizes) < 0.9 * len(plain.sizes)


def test_guessing_changes_no_token_of_the_kernels(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    architecture, weights = weights_of(gpt2, "int8")
    if reason := refusal(architecture, "int8", "cpu"):
        pytest.skip(reason)
    model = KernelGPT2.build(architecture, weights, "int8", CONTEXT, EOS)
    prompts = random_prompts(30, 60)

    def sequences() -> list[Sequence]:
        return [greedy(prompt, 100, ignore_eos=True) for prompt in prompts]

    engine = Engine(model, tokenizer, 2, 40)
    guessing, plain = sequences(), sequences()
    run(engine, guessing)
    run(Engine(model, tokenizer, 2, 40, speculate=False), plain)
    assert [sequence.tokens for sequence in guessing] == [sequence.tokens for sequence in plain]
    assert engine._guesses.accepted > 100


class Circle(Wrapped):
    """Says 10, 11, 12, 13, 14 and then the same again."""

    exact_rows = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.sizes: list[int] = []

    def best(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        self.sizes.append(len(rows.tokens))
        tokens = [10 + (rows.tokens[row] - 9) % 5 for row in rows.wanted]
        return torch.tensor(tokens, dtype=torch.int64), torch.ones(len(tokens), dtype=torch.bool)


def test_a_sequence_that_repeats_itself_takes_few_passes(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    model = Circle(ours(gpt2))
    run(Engine(model, tokenizer, 1, 200), [sequence := greedy([14], 200, ignore_eos=True)])
    assert sequence.tokens == [10, 11, 12, 13, 14] * 40
    assert len(model.sizes) <= 8 + 193 // ROWS + 1
    assert max(model.sizes) == ROWS


def test_the_end_of_the_context_is_not_passed(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    model = Exact(ours(gpt2, "int8"))
    run(Engine(model, tokenizer, 1, 300), [full := greedy([5] * 6, CONTEXT - 6, ignore_eos=True)])
    assert (len(full.tokens), full.error) == (CONTEXT - 6, None)


def test_nobody_guesses_in_a_crowd_or_beside_somebody_who_samples(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer
) -> None:
    for others in ([greedy([5, 6, 7], 60, temperature=1)], [greedy([9], 60, ignore_eos=True)] * 0):
        model = Exact(ours(gpt2))
        crowd = others or [greedy([5 + number], 40, ignore_eos=True) for number in range(5)]
        run(Engine(model, tokenizer, 5, 40), [*crowd, *([greedy([5, 6], 20)] if others else [])])
        assert max(model.sizes[2:]) <= len(crowd) + 1


def test_an_inexact_model_is_not_asked_to_guess(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    model = Exact(ours(gpt2))
    model.exact_rows = False  # type: ignore[misc]
    run(Engine(model, tokenizer, 1, 40), [greedy([5, 6, 7], 100, ignore_eos=True)])
    assert max(model.sizes[1:]) == 1


def test_numbers_that_are_not_finite_fail_the_sequence(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    class Hurt(Exact):
        def best(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
            tokens, finite = super().best(rows)
            if rows.chunks and rows.chunks[0].start > 100:
                finite = finite.clone()
                finite[-1] = False
            return tokens, finite

    engine = Engine(Hurt(ours(gpt2, "int8")), tokenizer, 2, 200)
    hurt, other = greedy([5, 6, 7], 200, ignore_eos=True), greedy([8], 20, ignore_eos=True)
    run(engine, [hurt, other])
    assert isinstance(hurt.error, NumericalError)
    assert other.error is None
    engine.submit(healthy := greedy([9], 5, ignore_eos=True))
    finish(engine)
    assert healthy.error is None


def test_what_followed_the_last_time_is_guessed() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 9, 2, 3, 4])
    assert lookup.guess(3) == [5, 9, 2]
    lookup.extend([7, 2, 3, 4])
    assert lookup.guess(3) == [7, 2, 3]
    lookup.extend([8, 8])
    assert lookup.guess(3) == []
    lookup.extend([9, 2])
    assert lookup.guess(1) == [3]


@given(circle=st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), most=st.integers(1, 20))
def test_a_circle_goes_on(circle: list[int], most: int) -> None:
    rounds = 9 * circle
    whole, text = rounds[: 4 * len(circle) + 3], rounds
    assert Lookup(whole).guess(most) == (text * 4)[len(whole) :][:most]


def test_a_pause_follows_wrong_guesses_and_ends() -> None:
    speculation = Speculation()
    sequence = greedy([1, 2, 3, 1, 2], 10_000)
    pauses, waited = [], 0
    for _ in range(300):
        draft = speculation.draft(sequence, 1)
        if draft:
            pauses.append(waited)
            waited = 0
            assert speculation.check(sequence, draft, [VOCAB] * (len(draft) + 1)) == [VOCAB]
        else:
            waited += 1
    assert pauses[:6] == [0, 0, 3, 7, 15, 31]
    assert max(pauses) == 32
    assert speculation.accepted == 0


def test_right_guesses_are_taken_up_to_the_first_wrong_one() -> None:
    speculation = Speculation()
    sequence = greedy([1, 2, 3, 4, 5, 1, 2], 50)
    draft = speculation.draft(sequence, 1)
    assert draft == [3, 4, 5, 1, 2, 3, 4]
    assert speculation.check(sequence, draft, [3, 4, 9, 8, 7, 6, 5, 4]) == [3, 4, 9]
    assert (speculation.drafted, speculation.accepted) == (7, 2)
    assert speculation.check(sequence, [], [6]) == [6]


def test_the_rows_of_a_pass_are_shared_among_few() -> None:
    speculation = Speculation()
    lengths = [len(speculation.draft(greedy([1, 2, 3, 4, 1, 2], 50), talking)) for talking in range(1, 10)]
    assert lengths == [7, 3, 1, 1, 0, 0, 0, 0, 0]
    assert speculation.draft(greedy([1, 2, 1, 2], 1), 1) == []


def test_random_texts_are_followed_without_an_error() -> None:
    chooser = random.Random(0)
    for _ in range(50):
        lookup = Lookup([chooser.randrange(3) for _ in range(chooser.randrange(0, 9))])
        for _ in range(30):
            most = chooser.randint(1, 9)
            assert len(lookup.guess(most)) in {0, most}
            lookup.extend([chooser.randrange(3) for _ in range(chooser.randrange(3))])
