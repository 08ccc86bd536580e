"""A device without room: the same work again in fewer slots, nobody's output changes, the process lives."""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from jobs.database import Database
from jobs.errors import OutOfMemory
from jobs.inputs import Sampling
from jobs.settings import Settings
from jobs.states import State
from tests.jobs import samples
from tests.worker.conftest import Wrapped, finish, greedy, ours, random_prompts, run
from tests.worker.lanes import FakeModel, make_lane
from tests.worker.whole import Bench, working
from worker.adapters import Adapter
from worker.allowance import GOOD_PASSES
from worker.engine import Engine
from worker.rows import Rows
from worker.sequence import Sequence

SLOTS, BUDGET = 8, 40
ERRORS = (
    lambda: torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError,
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
)


class Tight(Wrapped):
    """Has no room whenever `full` says so, before a pass or when all of it was done."""

    def __init__(
        self, model: Any, full: Callable[[Rows], bool], late: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__(model)
        self.full, self.late, self.errors = full, late, 0

    def forward(self, rows: Rows) -> Tensor:
        """As the real one, if there is room."""
        return self._within(rows, self.inner.forward)

    def best(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Likewise."""
        return self._within(rows, self.inner.best)

    def _within(self, rows: Rows, act: Callable[[Rows], Any]) -> Any:
        full, late = self.full(rows), self.late()
        done = act(rows) if late or not full else None
        if full:
            self.errors += 1
            raise ERRORS[self.errors % len(ERRORS)]()
        return done


def asking(count: int = 12) -> list[Sequence]:
    """Of every kind; the same each time."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0, "ignore_eos": True},
        {"temperature": 1.2, "top_p": 0.9},
        {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
        {"temperature": 0, "num_beams": 3},
        {"temperature": 1, "logprobs": 2, "frequency_penalty": 0.5},
        {"temperature": 0, "stop": ("en", "d"), "min_tokens": 3},
    ]
    return [
        Sequence(
            prompt,
            Sampling(**{"max_tokens": 16, "seed": number, **kinds[number % len(kinds)]}),
            echo=number % len(kinds) == 4,
        )
        for number, prompt in enumerate(random_prompts(count))
    ]


def said(sequences: list[Sequence]) -> list[Any]:
    return [
        (one.tokens, one.text, one.finish_reason, [lp.token for lp in one.logprobs], one.error)
        for one in sequences
    ]


def believed(sequences: list[Sequence]) -> list[float]:
    every = [one for sequence in sequences for one in (*sequence.logprobs, *sequence.prompt_logprobs) if one]
    return [one.logprob for one in every]


@pytest.fixture(scope="module")
def undisturbed(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> list[Sequence]:
    sequences = asking()
    run(Engine(ours(gpt2), tokenizer, SLOTS, BUDGET), sequences)
    return sequences


@pytest.mark.parametrize("seed", range(8))
def test_nobodys_output_changes_whenever_the_room_is_short(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, undisturbed: list[Sequence], seed: int
) -> None:
    chooser = random.Random(seed)

    def full(rows: Rows) -> bool:
        return chooser.random() < 0.15 and engine._allowance.slots > 1  # alone it would fail

    model = Tight(ours(gpt2), full, late=lambda: chooser.random() < 0.5)
    engine, sequences = Engine(model, tokenizer, SLOTS, BUDGET), asking()
    ended = run(engine, sequences)
    assert model.errors >= 3
    assert set(ended) == set(sequences), "each is returned"
    assert len(ended) == len(sequences), "and once"
    assert said(sequences) == said(undisturbed)
    assert believed(sequences) == pytest.approx(believed(undisturbed), abs=1e-4)


def test_what_fits_goes_on_in_as_many_slots_as_fit(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    model = Tight(ours(gpt2), lambda rows: len(set(rows.slots)) > 3)
    engine = Engine(model, tokenizer, SLOTS, BUDGET)
    sequences = [greedy([5 + number], 12, ignore_eos=True) for number in range(SLOTS)]
    for sequence in sequences:
        engine.submit(sequence)
    engine.step()
    assert model.errors == 1
    assert engine.free == 0, "nobody is claimed for slots that are not used"
    finish(engine)
    assert model.errors == 2, "8 slots, 4, 2"
    assert engine.free == 3, "and one more after a while"
    assert [one.error for one in sequences] == [None] * SLOTS
    assert {len(one.tokens) for one in sequences} == {12}


def test_the_slots_come_back_one_after_the_other(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    full = [True]
    engine = Engine(Tight(ours(gpt2), lambda _: full and full.pop()), tokenizer, SLOTS, BUDGET)
    sequences = [greedy([5 + number], 200, ignore_eos=True) for number in range(SLOTS)]
    for sequence in sequences:
        engine.submit(sequence)
    engine.step()
    slots = []
    for _ in range(5 * GOOD_PASSES):
        engine.step()
        slots.append(len(engine._scheduler.running))
    assert slots[0] == SLOTS // 2
    assert slots == sorted(slots)
    assert slots[-1] == SLOTS
    assert slots.count(5) == GOOD_PASSES


def test_who_has_no_room_alone_fails_and_the_others_do_not(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer
) -> None:
    model = Tight(ours(gpt2), lambda rows: max(rows.positions) > 150)
    engine = Engine(model, tokenizer, 4, BUDGET)
    large = greedy([7] * 140, 50, ignore_eos=True)
    small = [greedy([5 + number], 30, ignore_eos=True) for number in range(6)]
    assert set(run(engine, [*small[:2], large, *small[2:]])) == {large, *small}
    assert isinstance(large.error, OutOfMemory)
    assert [one.error for one in small] == [None] * 6
    assert {len(one.tokens) for one in small} == {30}


def test_a_beam_search_that_needs_more_than_is_allowed_runs_alone(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, undisturbed: list[Sequence]
) -> None:
    full = [True] * 2
    engine = Engine(Tight(ours(gpt2), lambda _: full and full.pop()), tokenizer, 4, BUDGET)
    beams = asking()[3]
    assert run(engine, [greedy([5], 3), beams, greedy([6], 3)])
    assert (beams.tokens, beams.error) == (undisturbed[3].tokens, None)


@pytest.fixture
def bench(database: Database, owner: int, settings: Settings, tokenizer: Tokenizer) -> Iterator[Bench]:
    with working(database, owner, settings, tokenizer) as made:
        yield made


def test_jobs_do_not_notice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, full = bench.engine.model.forward, [True] * 2

    def fill(rows: Rows) -> Tensor:
        if full and len(set(rows.slots)) > 1:
            full.pop()
            raise MemoryError
        return forward(rows)

    monkeypatch.setattr(bench.engine.model, "forward", fill)
    names = [f"job {number}" for number in range(4)]
    bench.submit_at_once(dict.fromkeys(names, samples.MODEL), {"prompts": ["hello"]}, temperature=0)
    rows = [bench.ended(name) for name in names]
    assert full == []
    assert {(row.state, row.attempt, row.failures) for row in rows} == {(State.SUCCEEDED, 1, 0)}
    assert len({tuple(row.output["sequences"][0]["tokens"]) for row in rows}) == 1


def test_a_job_that_never_fits_fails_in_the_end_and_the_worker_lives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = bench.engine.model.forward

    def fill(rows: Rows) -> Tensor:
        if max(rows.positions) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(rows)

    monkeypatch.setattr(bench.engine.model, "forward", fill)
    bench.submit("large", max_tokens=100)
    row = bench.ended("large")
    assert (row.state, row.error["code"], row.failures) == (State.FAILED, "out_of_memory", 2)
    bench.submit("small")
    bench.said("small")


def test_an_adapter_without_room_fails_its_own_job(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel()
    lane = make_lane("starter", tokenizer, threading.Event(), Engine(model, tokenizer, 4, 32))

    def full(adapter: Adapter) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model, "adapt", full)
    lane.submit([tuned := greedy([1], 2)], Adapter("digest", 4, {}))
    lane.submit([plain := greedy([1], 2, ignore_eos=True)], None)
    while not lane.idle:
        lane.step()
    assert isinstance(tuned.error, OutOfMemory)
    assert (plain.error, len(plain.tokens)) == (None, 2)
