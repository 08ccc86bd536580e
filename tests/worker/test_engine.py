"""Many sequences in one batch, each as if it were alone."""

import random
import threading
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.errors import InvalidPrompt, NumericalError
from jobs.inputs import Sampling
from tests.worker.conftest import (
    CONTEXT,
    EOS,
    VOCAB,
    MakeEngine,
    Wrapped,
    equally_long,
    greedy,
    ours,
    random_gpt2,
    random_prompts,
    run,
)
from worker.engine import Engine
from worker.rows import Rows
from worker.sequence import Sequence


def test_greedy_tokens_equal_those_of_transformers(gpt2: GPT2LMHeadModel, make_engine: MakeEngine) -> None:
    groups = [equally_long(20, length) for length in (1, 2, 7, 16, 31, 45, 60, 77, 90, 128)]
    engine = make_engine(slots=8, token_budget=24)
    sequences = [[greedy(prompt, 20) for prompt in group] for group in groups]
    chooser = random.Random(5)
    late = [sequence for group in sequences for sequence in group]
    chooser.shuffle(late)
    while late or not engine.idle:
        for _ in range(min(len(late), chooser.randint(0, 3))):
            engine.submit(late.pop())
        engine.step()
    for prompts, answers in zip(groups, sequences, strict=True):
        asked = torch.tensor(prompts)
        expected = gpt2.generate(
            asked, attention_mask=torch.ones_like(asked), max_new_tokens=20, do_sample=False, pad_token_id=EOS
        )
        for tokens, sequence in zip(expected[:, asked.shape[1] :].tolist(), answers, strict=True):
            assert sequence.tokens == tokens[: len(sequence.tokens)]
            assert len(sequence.tokens) == 20 or sequence.tokens[-1] == EOS
    assert len({tuple(answer.tokens) for group in sequences for answer in group}) > 100  # their own ways


def test_a_newcomer_joins_at_the_next_step(make_engine: MakeEngine) -> None:
    engine = make_engine()
    early, late = greedy([5, 6, 7], 50, ignore_eos=True), greedy([8, 9], 3, ignore_eos=True)
    engine.submit(early)
    engine.step()
    engine.submit(late)
    engine.step()
    assert (len(early.tokens), len(late.tokens)) == (2, 1)


def test_a_long_newcomer_does_not_stall_the_others(make_engine: MakeEngine) -> None:
    engine = make_engine(token_budget=16)
    talking, reading = greedy([5], 100, ignore_eos=True), greedy([7] * 150, 5, ignore_eos=True)
    engine.submit(talking)
    engine.step()
    engine.submit(reading)
    steps = 1
    while not reading.tokens:  # at most 15 prompt rows in each step, at least 8
        engine.step()
        steps += 1
        assert len(talking.tokens) == steps
    assert 11 <= steps <= 20


def test_a_short_prompt_does_not_wait_for_a_long_one(make_engine: MakeEngine) -> None:
    engine = make_engine(token_budget=16)
    long, short = greedy([7] * 200, 5, ignore_eos=True), greedy([8] * 20, 5, ignore_eos=True)
    for sequence in (long, short):
        engine.submit(sequence)
    for _ in range(3):  # half of 16 rows are the long one's
        engine.step()
    assert (len(short.tokens), long.tokens) == (1, [])
    assert long.cached == 48 - 20


def test_a_finished_sequence_frees_its_slot_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=1)
    first, second = greedy([5], 2, ignore_eos=True), greedy([6], 2, ignore_eos=True)
    engine.submit(first)
    engine.submit(second)
    engine.step()
    assert engine.step() == [first]
    engine.step()
    assert len(second.tokens) == 1


def test_more_sequences_than_slots_wait_in_order(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=2)
    sequences = [greedy([5 + number], 3, ignore_eos=True) for number in range(7)]
    assert engine.free == 2
    assert run(engine, sequences) == sequences
    assert engine.free == 2


def test_waiting_sequences_count_against_the_free_slots(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=3)
    engine.submit(greedy([5], 9))
    assert engine.free == 2
    engine.step()
    assert engine.free == 2
    for _ in range(5):
        engine.submit(greedy([5], 9))
    assert engine.free == 0
    assert not engine.idle


@pytest.mark.parametrize("method", ["int8", "fp32"])
@pytest.mark.parametrize(
    "wanted", [{"temperature": 0}, {"temperature": 1}, {"top_k": 30, "top_p": 0.9}], ids=str
)
def test_strangers_do_not_change_what_a_sequence_says(
    make_engine: MakeEngine, method: str, wanted: dict[str, Any]
) -> None:
    def sequences() -> list[Sequence]:
        return [
            Sequence(prompt, Sampling(max_tokens=12, seed=number, **wanted), index=number % 3)
            for number, prompt in enumerate(random_prompts(16))
        ]

    alone, together = sequences(), sequences()
    for sequence in alone:
        run(make_engine(method, slots=1, token_budget=300), [sequence])
    run(make_engine(method, slots=7, token_budget=20), reversed(together))
    assert [sequence.tokens for sequence in alone] == [sequence.tokens for sequence in together]


def test_index_and_seed_make_different_texts(make_engine: MakeEngine) -> None:
    def said(seed: int, index: int) -> tuple[int, ...]:
        sampling = Sampling(max_tokens=12, temperature=2, seed=seed, ignore_eos=True)
        run(make_engine(), [sequence := Sequence([5, 6], sampling, index)])
        return tuple(sequence.tokens)

    assert said(1, 0) == said(1, 0)
    assert len({said(seed, index) for seed in (0, 1, 2**63 - 1) for index in (0, 1)}) == 6


def with_a_bad_embedding(token: int) -> GPT2LMHeadModel:
    """A model whose numbers are not finite wherever `token` was read."""
    reference = random_gpt2(tie_word_embeddings=False)
    with torch.no_grad():
        reference.transformer.wte.weight[token] = torch.nan
    return reference


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_nan_fails_its_sequence_alone_and_leaves_a_clean_slot(
    tokenizer: Tokenizer, temperature: float
) -> None:
    model = ours(with_a_bad_embedding(299))
    prompts = [[5, 6], [299, 7], [8, 9, 10], [11]]
    wanted = {"ignore_eos": True, "temperature": temperature, "logit_bias": {299: -100.0}}
    engine = Engine(model, tokenizer, 3, 32)
    sequences = [greedy(prompt, **wanted) for prompt in prompts]
    finished = run(engine, sequences)
    assert len(finished) == 4
    assert isinstance(sequences[1].error, NumericalError)
    assert (sequences[1].finished, sequences[1].finish_reason, sequences[1].tokens) == (True, None, [])
    for number in (0, 2, 3):  # the last one got the slot of the one that failed
        run(Engine(model, tokenizer, 1, 32), [expected := greedy(prompts[number], **wanted)])
        assert sequences[number].error is None
        assert sequences[number].tokens == expected.tokens


def test_a_sequence_dropped_before_it_spoke_leaves_a_clean_slot(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer
) -> None:
    cleared: list[int] = []

    class Watched(Wrapped):
        def clear(self, slot: int) -> None:
            cleared.append(slot)

    engine = Engine(Watched(ours(gpt2)), tokenizer, 2, 8)
    engine.submit(dropped := greedy([5] * 50))
    engine.step()
    engine.drop(dropped)
    engine.step()
    assert cleared == [0]


def test_a_dropped_sequence_leaves_at_the_next_step(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=1)
    running, waiting, next_one = (greedy([number], 50, ignore_eos=True) for number in (5, 6, 7))
    for sequence in (running, waiting, next_one):
        engine.submit(sequence)
    engine.step()
    engine.drop(running)
    engine.drop(waiting)
    assert engine.step() == []
    assert [len(sequence.tokens) for sequence in (running, waiting, next_one)] == [1, 0, 1]
    engine.drop(next_one)
    assert (engine.step(), engine.idle, next_one.finished) == ([], True, False)


def test_dropping_what_already_left_is_no_matter(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run(engine, [gone := greedy([5], 2)])
    engine.drop(gone)
    assert run(engine, [other := greedy([6], 2)]) == [other]


def test_submit_and_drop_from_many_threads_lose_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=4)
    kept = [greedy([5 + number], 2, ignore_eos=True) for number in range(40)]
    dropped = [greedy([60 + number], 50, ignore_eos=True) for number in range(40)]

    def client(part: int) -> None:
        for keep, drop in zip(kept[part::4], dropped[part::4], strict=True):
            engine.submit(drop)
            engine.submit(keep)
            engine.drop(drop)

    clients = [threading.Thread(target=client, args=(part,)) for part in range(4)]
    for thread in clients:
        thread.start()
    finished: list[Sequence] = []
    while any(thread.is_alive() for thread in clients) or not engine.idle:
        finished += engine.step()
    assert set(finished) == set(kept)


def test_abandon_empties_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=1)
    sequences = [greedy([5 + number], 9) for number in range(3)]
    for sequence in sequences[:2]:
        engine.submit(sequence)
    engine.step()
    engine.submit(sequences[2])
    assert engine.abandon() == sequences
    assert (engine.idle, engine.free, engine.step()) == (True, 1, [])


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "named"),
    [
        ([], 1, "empty"),
        ([VOCAB], 1, "vocabulary"),
        ([-1], 1, "vocabulary"),
        ([5] * 250, 7, "context"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(
    make_engine: MakeEngine, prompt: list[int], max_tokens: int, named: str
) -> None:
    engine = make_engine()
    with pytest.raises(InvalidPrompt, match=named):
        engine.submit(greedy(prompt, max_tokens))
    assert engine.idle


def test_the_whole_context_can_be_used(make_engine: MakeEngine) -> None:
    run(make_engine(), [full := greedy([5] * 200, CONTEXT - 200, ignore_eos=True)])
    assert (len(full.tokens), full.error) == (CONTEXT - 200, None)


def test_a_budget_without_room_for_newcomers_is_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(ValueError, match="TOKEN_BUDGET"):
        make_engine(slots=8, token_budget=8)


def test_times_and_steps_are_told(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run(engine, [sequence := greedy([5], 4, ignore_eos=True)])
    assert engine.steps == 4
    assert sequence.first_token_at is not None
    assert sequence.finished_at is not None
    assert sequence.first_token_at < sequence.finished_at


def test_warm_up_leaves_the_engine_idle(make_engine: MakeEngine) -> None:
    engine = make_engine("int8")
    engine.warm_up()
    assert (engine.idle, engine.free) == (True, 4)


@pytest.mark.parametrize("chunks", [8, 300])
def test_an_echo_says_how_likely_the_prompt_was(
    gpt2: GPT2LMHeadModel, make_engine: MakeEngine, chunks: int
) -> None:
    engine = make_engine(slots=6, token_budget=chunks)
    prompts = random_prompts(5)
    echoed = [greedy(prompt, 3, logprobs=2, ignore_eos=True) for prompt in (*prompts, prompts[0])]
    for sequence in echoed:
        sequence.echo = True
    run(engine, [*echoed[:5], greedy([5], 9), echoed[5], greedy(prompts[0], 9)])
    for sequence in echoed:
        with torch.inference_mode():
            logits = gpt2(torch.tensor([sequence.prompt + sequence.tokens])).logits[0]
        expected = logits.log_softmax(-1)
        first, *rest = sequence.prompt_logprobs
        assert first is None
        assert len(sequence.prompt_logprobs) == len(sequence.prompt)
        for place, logprob in enumerate([*rest, *sequence.logprobs]):
            token = (sequence.prompt + sequence.tokens)[place + 1]
            assert logprob is not None
            assert (logprob.token, len(logprob.top)) == (token, 2)
            assert logprob.logprob == pytest.approx(float(expected[place, token]), abs=1e-4)
            assert logprob.top[0][0] == int(expected[place].argmax())
        assert sequence.cumulative == pytest.approx(sum(each.logprob for each in sequence.logprobs))
        assert sequence.shared == 0


@pytest.mark.parametrize("chunks", [8, 300])
def test_a_prompt_can_be_scored_without_a_word_being_said(
    gpt2: GPT2LMHeadModel, make_engine: MakeEngine, chunks: int
) -> None:
    engine = make_engine(slots=3, token_budget=chunks)
    prompts = [*random_prompts(5), equally_long(1, CONTEXT)[0]]
    scored = [greedy(prompt, 0, logprobs=1) for prompt in prompts]
    for sequence in scored:
        sequence.echo = True
    drawn = Sequence([5, 6], Sampling(max_tokens=0, seed=1, stop=("a",)))
    run(engine, [*scored[:3], greedy([5], 9), silent := greedy([5, 6], 0), drawn, *scored[3:]])
    for sequence in scored:
        with torch.inference_mode():
            expected = gpt2(torch.tensor([sequence.prompt])).logits[0].log_softmax(-1)
        told = [one.logprob for one in sequence.prompt_logprobs if one is not None]
        assert told == pytest.approx(
            [float(expected[place, token]) for place, token in enumerate(sequence.prompt[1:])], abs=1e-4
        )
    for sequence in (*scored, silent, drawn):
        assert (sequence.tokens, sequence.logprobs, sequence.cumulative) == ([], [], 0.0)
        assert (sequence.text, sequence.finish_reason, sequence.error) == ("", "length", None)
    assert (engine.idle, engine.free) == (True, 3)


def test_a_beam_search_has_to_say_something(make_engine: MakeEngine) -> None:
    with pytest.raises(InvalidPrompt, match="max_tokens of 1"):
        make_engine().submit(greedy([5], 0, num_beams=2))


def test_a_stop_token_ends_a_sequence_whatever_else_is_ignored(make_engine: MakeEngine) -> None:
    run(make_engine(), [free := greedy([5, 6], 9, ignore_eos=True)])
    end = free.tokens[4]
    run(make_engine(), [stopped := greedy([5, 6], 9, ignore_eos=True, stop_token_ids=(end,))])
    assert stopped.tokens == free.tokens[: free.tokens.index(end) + 1]
    assert stopped.finish_reason == "stop"


def test_each_sequence_brings_its_adapter_to_every_row(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    seen: dict[int, set[int]] = {}

    class Watched(Wrapped):
        exact_rows = False

        def best(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
            for slot, adapter in zip(rows.slots, rows.adapters or [-1] * len(rows.slots), strict=True):
                seen.setdefault(slot, set()).add(adapter)
            tokens: tuple[torch.Tensor, torch.Tensor] = self.inner.best(
                Rows(rows.tokens, rows.slots, rows.positions, [], rows.decodes, rows.chunks, rows.wanted)
            )
            return tokens

    sequences = [greedy([9] * 20, 5 + number, ignore_eos=True) for number in range(4)]
    sequences[1].adapter, sequences[3].adapter = 0, 7
    run(Engine(Watched(ours(gpt2)), tokenizer, 4, 9), sequences)
    assert seen == {0: {-1}, 1: {0}, 2: {-1}, 3: {7}}


@pytest.mark.parametrize("wanted", [{"logit_bias": {VOCAB: 1.0}}, {"bad_words": ((5, VOCAB),)}], ids=str)
def test_a_token_that_the_model_does_not_have_is_refused(
    make_engine: MakeEngine, wanted: dict[str, Any]
) -> None:
    with pytest.raises(InvalidPrompt, match=str(VOCAB)):
        make_engine().submit(greedy([5], **wanted))
