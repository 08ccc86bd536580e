"""Beam search in the batch: the answers of transformers, whoever else is there."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.errors import InvalidPrompt, NumericalError
from tests.worker.conftest import EOS, VOCAB, MakeEngine, Wrapped, equally_long, finish, greedy, ours, run
from worker.engine import Engine
from worker.rows import Rows
from worker.sequence import Sequence

NEW = 12  # tokens


def searching(prompt: list[int], beams: int, answers: int = 1, **wanted: Any) -> Sequence:
    leader = greedy(prompt, wanted.pop("max_tokens", NEW), num_beams=beams, **wanted)
    leader.runners_up = [Sequence(prompt, leader.sampling, index) for index in range(1, answers)]
    return leader


def said(leader: Sequence) -> list[list[int]]:
    return [sequence.tokens for sequence in (leader, *leader.runners_up)]


def expected(
    gpt2: GPT2LMHeadModel, prompts: list[list[int]], answers: int, **wanted: Any
) -> list[list[list[int]]]:
    """What transformers says, without the padding that it puts behind an early end."""
    asked = torch.tensor(prompts)
    ends = wanted["eos_token_id"]
    found = gpt2.generate(
        asked,
        attention_mask=torch.ones_like(asked),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=VOCAB - 1,
        num_return_sequences=answers,
        **wanted,
    )[:, asked.shape[1] :].tolist()
    cut = []
    for tokens in found:
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        cut.append(tokens[: end + 1])
    return [cut[start : start + answers] for start in range(0, len(cut), answers)]


@pytest.mark.parametrize(
    ("beams", "answers", "length", "wanted"),
    [
        (4, 1, 5, {}),
        (2, 2, 17, {"length_penalty": 2.0, "early_stopping": True}),
        (4, 4, 33, {"length_penalty": 0.3, "early_stopping": "never"}),
        (5, 3, 8, {"length_penalty": -1.0}),
        (3, 3, 64, {"length_penalty": 0.0, "early_stopping": True}),
        (7, 2, 1, {"early_stopping": "never", "length_penalty": -0.5}),
        (4, 2, 40, {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}),
        (3, 1, 21, {"early_stopping": True, "repetition_penalty": 0.7}),
    ],
    ids=str,
)
def test_answers_equal_those_of_transformers(
    gpt2: GPT2LMHeadModel,
    make_engine: MakeEngine,
    beams: int,
    answers: int,
    length: int,
    wanted: dict[str, Any],
) -> None:
    prompts = equally_long(25, length)  # 200 in all
    stops = tuple(range(20, 60))  # frequent ends
    engine = make_engine(slots=16, token_budget=40)
    leaders = [searching(prompt, beams, answers, stop_token_ids=stops, **wanted) for prompt in prompts]
    strangers = [greedy(prompt, 9) for prompt in equally_long(10, 30)]
    finished = run(engine, [*leaders[:10], *strangers, *leaders[10:]])
    reference = expected(gpt2, prompts, answers, num_beams=beams, eos_token_id=[EOS, *stops], **wanted)
    assert [said(leader) for leader in leaders] == reference
    assert len(finished) == len(leaders) * answers + len(strangers)
    assert engine.free == 16
    ended = [sequence.finish_reason for leader in leaders for sequence in (leader, *leader.runners_up)]
    assert {"stop", "length"} >= set(ended)
    assert "stop" in ended


def test_what_others_say_is_not_changed_by_a_search(make_engine: MakeEngine) -> None:
    prompts = equally_long(6, 20)
    alone = [greedy(prompt, 20) for prompt in prompts]
    run(make_engine("int8"), alone)
    together = [greedy(prompt, 20) for prompt in prompts]
    engine = make_engine("int8", slots=7)
    run(
        engine,
        [together[0], searching(prompts[1], 3), *together[1:], searching(prompts[0], 4, max_tokens=30)],
    )
    assert [sequence.tokens for sequence in alone] == [sequence.tokens for sequence in together]


def test_a_search_says_the_same_in_company(make_engine: MakeEngine) -> None:
    prompts = equally_long(4, 50)
    alone = [searching(prompt, 3, 3) for prompt in prompts]
    for leader in alone:
        run(make_engine("int8", slots=3, token_budget=300), [leader])
    together = [searching(prompt, 3, 3) for prompt in prompts]
    run(make_engine("int8", slots=8, token_budget=11), [greedy([5], 30), *together, greedy([6], 30)])
    assert [said(leader) for leader in alone] == [said(leader) for leader in together]
    assert [leader.cumulative for leader in alone] == [leader.cumulative for leader in together]
    assert all(leader.cumulative < 0 for leader in alone)


def test_a_search_waits_until_all_its_slots_are_free(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=4)
    early = [greedy([5 + number], 3, ignore_eos=True) for number in range(2)]
    leader, late = searching([9, 9], 3), greedy([8], 2, ignore_eos=True)
    for sequence in (*early, leader, late):
        engine.submit(sequence)
    assert engine.free == 0
    finished: list[Sequence] = []
    while not leader.tokens:
        assert not late.tokens  # who came later does not overtake
        finished += engine.step()
    assert finished == early
    finish(engine)
    assert engine.free == 4


def test_a_search_may_end_with_its_first_token(make_engine: MakeEngine) -> None:
    leader = searching([5, 6], 4, 4, max_tokens=1)
    assert len(run(make_engine(), [leader])) == 4
    assert len({tuple(tokens) for tokens in said(leader)}) == 4
    assert all(sequence.finish_reason == "length" for sequence in (leader, *leader.runners_up))


def test_a_dropped_search_gives_all_its_slots_back(make_engine: MakeEngine) -> None:
    engine = make_engine(slots=4)
    for steps in (0, 1, 3):
        engine.submit(leader := searching([5, 6], 4, 2))
        for _ in range(steps):
            engine.step()
        engine.drop(leader)
        assert engine.step() == []
        assert (engine.free, engine.idle, leader.finished) == (4, True, False)


def test_few_hypotheses_change_their_slot(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    copied: list[list[tuple[int, int]]] = []

    class Watched(Wrapped):
        def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
            copied.append(moves)
            self.inner.copy(moves, positions)

    engine = Engine(Watched(ours(gpt2)), tokenizer, 4, 32)
    run(engine, [leader := searching([5, 6, 7], 4, ignore_eos=True)])
    assert copied[0] == [(0, 1), (0, 2), (0, 3)]
    for moves in copied:
        sources, targets = {one for one, _ in moves}, {other for _, other in moves}
        assert not sources & targets  # who has a successor stays where it is
        assert len(targets) == len(moves)
    assert len(copied) <= len(leader.tokens)


def test_nan_fails_a_search_with_all_its_answers(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    class Hurt(Wrapped):
        @torch.inference_mode()
        def forward(self, rows: Rows) -> torch.Tensor:
            logits: torch.Tensor = self.inner.forward(rows)
            if rows.positions[0] == 5:
                logits[1, 7] = torch.nan
            return logits

    engine = Engine(Hurt(ours(gpt2)), tokenizer, 4, 32)
    leader, other = searching([5, 6], 3, 2, ignore_eos=True), greedy([8], 9, ignore_eos=True)
    assert set(run(engine, [leader, other])) == {leader, *leader.runners_up, other}
    assert all(isinstance(sequence.error, NumericalError) for sequence in (leader, *leader.runners_up))
    assert other.error is None
    assert engine.free == 4


@pytest.mark.parametrize(
    ("beams", "answers", "wanted", "named"),
    [
        (5, 1, {}, "slots"),
        (2, 3, {}, "n is more"),
        (2, 1, {"stop": ("a",)}, "stop"),
        (2, 1, {"logprobs": 0}, "logprobs"),
        (4, 1, {"stop_token_ids": tuple(range(1, 65)), "ignore_eos": True}, None),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    make_engine: MakeEngine, beams: int, answers: int, wanted: dict[str, Any], named: str | None
) -> None:
    engine = make_engine(slots=4)
    leader = searching([5], beams, answers, **wanted)
    if named is None:
        engine.submit(leader)
        return
    with pytest.raises(InvalidPrompt, match=named):
        engine.submit(leader)
    assert engine.idle
