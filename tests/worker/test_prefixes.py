"""What somebody has read is not read again, and nobody can tell from the answer."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.errors import NumericalError
from tests.worker.conftest import VOCAB, MakeEngine, Wrapped, finish, greedy, ours, random_gpt2, run
from worker.engine import Engine
from worker.prefixes import WORTH, Prefixes, Source
from worker.rows import Rows
from worker.sequence import Sequence

chooser = random.Random(11)
SYSTEM = [chooser.randrange(1, VOCAB) for _ in range(100)]


class Counting(Wrapped):
    """The real model, which counts the prompt rows that it is given and the slots that are copied."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.read = 0
        self.copies: list[tuple[int, int]] = []
        self.cleared: list[int] = []

    def forward(self, rows: Rows) -> torch.Tensor:
        self.read += len(rows.tokens) - rows.decodes
        logits: torch.Tensor = self.inner.forward(rows)
        return logits

    def best(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        self.read += len(rows.tokens) - rows.decodes
        tokens: tuple[torch.Tensor, torch.Tensor] = self.inner.best(rows)
        return tokens

    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
        self.copies += moves
        self.inner.copy(moves, positions)

    def clear(self, slot: int) -> None:
        self.cleared.append(slot)
        self.inner.clear(slot)


@pytest.fixture
def model(gpt2: GPT2LMHeadModel) -> Counting:
    return Counting(ours(gpt2, "int8"))


def engine_of(model: Counting, tokenizer: Tokenizer, slots: int = 4, token_budget: int = 40) -> Engine:
    return Engine(model, tokenizer, slots, token_budget, speculate=False)


def alone(make_engine: MakeEngine, prompt: list[int], **wanted: Any) -> list[int]:
    run(make_engine("int8", slots=1, token_budget=300), [sequence := greedy(prompt, **wanted)])
    return sequence.tokens


def test_a_prefix_that_waiting_requests_share_is_read_once(
    model: Counting, tokenizer: Tokenizer, make_engine: MakeEngine
) -> None:
    prompts = [SYSTEM + [5 + number] * (3 + number) for number in range(8)]
    sequences = [greedy(prompt, 4, ignore_eos=True) for prompt in prompts]
    run(engine_of(model, tokenizer), sequences)
    assert model.read == 100 + sum(3 + number for number in range(8))
    assert sorted(sequence.shared for sequence in sequences) == [0] + [100] * 7
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert sequence.tokens == alone(make_engine, prompt, max_tokens=4, ignore_eos=True)


def test_the_last_token_of_a_prompt_is_always_read(model: Counting, tokenizer: Tokenizer) -> None:
    same = [greedy(SYSTEM, 4, ignore_eos=True) for _ in range(5)]
    run(engine_of(model, tokenizer), same)
    assert model.read == 100 + 4
    assert len({tuple(sequence.tokens) for sequence in same}) == 1


def test_the_next_turn_of_a_conversation_goes_on_where_the_last_one_ended(
    model: Counting, tokenizer: Tokenizer, make_engine: MakeEngine
) -> None:
    engine = engine_of(model, tokenizer)
    run(engine, [first := greedy(SYSTEM, 30, ignore_eos=True)])
    run(engine, [greedy([5, 6], 3)])  # somebody else comes between; low slots are given first
    prompt = [*SYSTEM, *first.tokens, 7, 8, 9]
    run(engine, [greedy([*prompt, 9], 3), second := greedy(prompt, 8, ignore_eos=True)])
    assert second.shared in (0, len(prompt) - 1)
    assert second.tokens == alone(make_engine, prompt, max_tokens=8, ignore_eos=True)


def test_a_slot_that_holds_the_prefix_is_taken_over_without_a_copy(
    model: Counting, tokenizer: Tokenizer
) -> None:
    engine = engine_of(model, tokenizer)
    run(engine, [greedy([5] * 30, 3), greedy(SYSTEM, 3, ignore_eos=True), greedy([6] * 30, 3)])
    run(engine, [again := greedy([*SYSTEM, 7], 3)])
    assert (again.shared, model.copies) == (100, [])


def test_copies_that_take_all_the_room_are_made_and_somebody_reads(
    model: Counting, tokenizer: Tokenizer
) -> None:
    engine = engine_of(model, tokenizer, token_budget=5)
    asked = [[*SYSTEM, *SYSTEM, token] for token in range(1, 5)]  # each copy is worth two rows
    run(engine, [greedy(asked[0], 1)])
    crowd = [greedy(prompt, 1) for prompt in asked]
    run(engine, crowd)
    assert len(model.copies) == 3
    alone = [greedy(prompt, 1) for prompt in asked]
    for sequence in alone:
        run(engine_of(model, tokenizer), [sequence])
    assert [sequence.tokens for sequence in crowd] == [sequence.tokens for sequence in alone]


def test_short_prefixes_are_read_again(model: Counting, tokenizer: Tokenizer) -> None:
    sequences = [greedy([*SYSTEM[: WORTH - 1], 5 + number], 3) for number in range(4)]
    run(engine_of(model, tokenizer), sequences)
    assert (model.read, model.copies) == (4 * WORTH, [])


def test_a_reader_that_is_dropped_leaves_its_followers_nothing_to_wait_for(
    model: Counting, tokenizer: Tokenizer, make_engine: MakeEngine
) -> None:
    engine = engine_of(model, tokenizer, token_budget=10)
    first, *others = (greedy([*SYSTEM, 5 + number], 4, ignore_eos=True) for number in range(4))
    for sequence in (first, *others):
        engine.submit(sequence)
    engine.step()
    assert [sequence.cached for sequence in (first, *others)] == [10, 0, 0, 0]
    engine.drop(first)
    finish(engine)
    assert model.read == 10 + 100 + 3
    for sequence in others:
        assert sequence.tokens == alone(make_engine, sequence.prompt, max_tokens=4, ignore_eos=True)


def test_adapters_do_not_share(model: Counting, tokenizer: Tokenizer) -> None:
    class Adapted(Counting):
        def best(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
            rows.adapters = []
            return super().best(rows)

        def forget(self, adapter: int) -> None: ...

    adapted = Adapted(model.inner)
    engine = engine_of(adapted, tokenizer)
    sequences = [greedy(SYSTEM, 3, ignore_eos=True) for _ in range(4)]
    for sequence, adapter in zip(sequences, (None, 0, 1, 0), strict=True):
        sequence.adapter = adapter
    run(engine, sequences)
    assert [sequence.shared for sequence in sequences] == [0, 0, 0, 99]
    engine.forget(0)  # its number may be another's now
    again = [greedy(SYSTEM, 3), greedy(SYSTEM, 3)]
    again[0].adapter, again[1].adapter = 0, 1
    run(engine, again)
    assert [sequence.shared for sequence in again] == [0, 99]


def test_numbers_that_are_not_finite_are_not_handed_on(tokenizer: Tokenizer) -> None:
    reference = random_gpt2(tie_word_embeddings=False)
    with torch.no_grad():
        reference.transformer.wte.weight[299] = torch.nan
    model = Counting(ours(reference))
    engine = engine_of(model, tokenizer, slots=2)
    wanted = {"ignore_eos": True, "logit_bias": {299: -100.0}}
    bad, good = greedy([*SYSTEM, 299] + [7] * 60, 3, **wanted), greedy([*SYSTEM, 5], 3, **wanted)
    run(engine, [bad, good])
    assert isinstance(bad.error, NumericalError)
    assert model.copies == [(0, 1)]  # while the bad one was still reading
    run(Engine(model.inner, tokenizer, 1, 200), [expected := greedy(good.prompt, 3, **wanted)])
    assert (good.error, good.tokens) == (None, expected.tokens)
    model.reserve(2)
    engine = engine_of(model, tokenizer, slots=2)
    run(engine, [bad := greedy(bad.prompt, 3, **wanted)])
    assert isinstance(bad.error, NumericalError)
    assert model.cleared[-1] == 0
    run(engine, [same := greedy(bad.prompt, 3, **wanted), other := greedy([6] * 40, 3, **wanted)])
    assert isinstance(same.error, NumericalError)
    assert (other.error, len(other.tokens), same.shared) == (None, 3, 0)


def test_an_engine_that_was_hurt_keeps_nothing(model: Counting, tokenizer: Tokenizer) -> None:
    engine = engine_of(model, tokenizer)
    engine.submit(greedy(SYSTEM, 9, ignore_eos=True))
    for _ in range(5):
        engine.step()
    engine.abandon()
    run(engine, [again := greedy(SYSTEM, 3)])
    assert again.shared == 0


def test_many_trees_of_prompts_say_what_each_says_alone(
    model: Counting, tokenizer: Tokenizer, make_engine: MakeEngine
) -> None:
    dice = random.Random(2)
    prompts: list[list[int]] = [[]]
    for _ in range(60):  # each grows out of a part of another
        stem = dice.choice(prompts)
        stem = stem[: dice.randint(0, len(stem))][:150]
        prompts.append(stem + [dice.randrange(1, VOCAB) for _ in range(dice.choice((1, 3, 20, 50)))])
    sequences = [greedy(prompt, dice.randint(1, 12), ignore_eos=True) for prompt in prompts[1:]]
    engine, waiting, dropped = engine_of(model, tokenizer, slots=6, token_budget=30), [*sequences], set()
    while waiting or not engine.idle:
        for _ in range(min(len(waiting), dice.choice((0, 0, 1, 9)))):
            engine.submit(waiting.pop())
        engine.step()
        if dice.random() < 0.1:
            gone = dice.choice(sequences)
            if gone not in waiting:
                engine.drop(gone)
                dropped.add(gone)
    # how much depends on the pace, and so on the clock; without sharing it is 0.94, because some are dropped
    assert model.read < 0.9 * sum(len(sequence.prompt) for sequence in sequences)
    for sequence in sequences:
        limit = sequence.sampling.max_tokens
        expected = alone(make_engine, sequence.prompt, max_tokens=limit, ignore_eos=True)
        assert sequence.tokens == expected[: len(sequence.tokens)]
        assert len(sequence.tokens) == limit or sequence in dropped
    assert engine.free == 6


TOKENS = st.lists(st.integers(0, 1), max_size=40)


@given(prompt=TOKENS.filter(bool), kept=st.lists(TOKENS, max_size=4), running=st.lists(TOKENS, max_size=4))
def test_the_longest_prefix_is_found(
    prompt: list[int], kept: list[list[int]], running: list[list[int]]
) -> None:
    def alike(tokens: list[int]) -> int:
        pairs = enumerate(zip(prompt[:-1], tokens, strict=False))
        most = min(len(prompt) - 1, len(tokens))
        return next((place for place, (one, other) in pairs if one != other), most)

    prefixes = Prefixes()
    for slot, tokens in enumerate(kept):
        sequence = greedy(tokens)
        sequence.cached = len(tokens)
        prefixes.keep(slot, sequence)
    others = {greedy(tokens): 10 + number for number, tokens in enumerate(running)}
    source = prefixes.find(greedy(prompt), others.items())
    longest = max(map(alike, [*kept, *running]), default=0)
    assert (source.length if source else 0) == (longest if longest >= WORTH else 0)
    if source and source.reader is None:
        assert alike(kept[source.slot]) == source.length
    elif source:
        assert others[source.reader] == source.slot


def test_nobody_waits_for_those_who_came_later() -> None:
    first, second = greedy(SYSTEM), greedy(SYSTEM)
    running: dict[Sequence, int] = {first: 0, second: 1}
    assert Prefixes().find(first, running.items()) is None
    assert Prefixes().find(second, running.items()) == Source(0, 99, first)
