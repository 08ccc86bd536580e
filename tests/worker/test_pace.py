"""Those who talk hardly feel that others read."""

import itertools
import statistics
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer

from tests.worker.conftest import greedy, run
from worker import engine as product
from worker.engine import Engine
from worker.pace import LEAST, Pace
from worker.rows import Rows

Cost = Callable[[int, int], float]  # seconds of a step, by talking sequences and prompt rows


def bound_by_memory(talking: int, prompts: int) -> float:
    """Reading the weights covers a few rows, then each costs; attention of the talking on top."""
    return max(3.6e-3, 0.3e-3 * (talking + prompts)) + 0.1e-3 * talking


def with_an_overhead(talking: int, prompts: int) -> float:
    """As without a kernel: many small operators."""
    return 5e-3 + 0.4e-3 * (talking + prompts)


COSTS = [bound_by_memory, with_an_overhead]


class Timed:
    """A model that answers at once and moves the clock by what the pass would have cost."""

    vocab_size, context, eos_token_id, slot_bytes, device, exact_rows = 300, 1024, 0, 1, "cpu", False

    def __init__(self, cost: Cost) -> None:
        self.cost, self.now = cost, 0.0
        self.passes: list[tuple[int, int]] = []  # talking sequences, prompt rows

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter

    def reserve(self, slots: int) -> None: ...

    def clear(self, slot: int) -> None: ...

    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None: ...

    def best(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = len(rows.tokens) - rows.decodes
        self.passes.append((rows.decodes, prompts))
        self.now += self.cost(rows.decodes, prompts)
        count = len(rows.wanted)
        return torch.full((count,), 5), torch.ones(count, dtype=torch.bool)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cost], Timed]:
    def make(cost: Cost) -> Timed:
        model = Timed(cost)
        monkeypatch.setattr(product, "time", model)
        return model

    return make


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("talking", [1, 8, 31])
def test_long_prompts_do_not_double_the_time_between_tokens(
    timed: Callable[[Cost], Timed], tokenizer: Tokenizer, cost: Cost, talking: int
) -> None:
    model = timed(cost)
    engine = Engine(model, tokenizer, 32, 128)
    for number in range(talking):
        engine.submit(greedy([5 + number], 1000, ignore_eos=True))
    arrivals = {60 + 200 * number: greedy([9 + number] * 900, 2, ignore_eos=True) for number in range(4)}
    between = []
    for step in range(900):
        if step in arrivals:
            engine.submit(arrivals[step])
        began = model.now
        engine.step()
        if step >= 20:
            between.append(model.now - began)
    assert all(sequence.finished for sequence in arrivals.values())
    between.sort()
    assert between[int(len(between) * 0.99)] <= 2 * statistics.median(between)


@pytest.mark.parametrize("cost", COSTS)
def test_prompts_get_on_while_others_talk(
    timed: Callable[[Cost], Timed], tokenizer: Tokenizer, cost: Cost
) -> None:
    model = timed(cost)
    engine = Engine(model, tokenizer, 32, 128)
    for number in range(16):
        engine.submit(greedy([5 + number], 1000, ignore_eos=True))
    for _ in range(20):
        engine.step()
    engine.submit(reading := greedy([9] * 900, 2, ignore_eos=True))
    model.passes.clear()
    while not reading.tokens:
        engine.step()
    alone, rows = cost(16, 0), statistics.median(prompts for _, prompts in model.passes)
    assert 1.5 <= cost(16, int(rows)) / alone <= 2
    assert len(model.passes) < 900 / LEAST / 1.5


def test_a_crowd_that_comes_at_once_is_read_quickly(
    timed: Callable[[Cost], Timed], tokenizer: Tokenizer
) -> None:
    model = timed(bound_by_memory)
    engine = Engine(model, tokenizer, 32, 128)
    crowd = [greedy([7 + number] * 136, 136, ignore_eos=True) for number in range(32)]
    for sequence in crowd:
        engine.submit(sequence)
    while not engine.idle:
        engine.step()
    floor = bound_by_memory(32, 0) * 136 + 0.3e-3 * 136 * 32
    assert model.now < 1.35 * floor


def test_nobody_talking_leaves_all_the_room_to_prompts(
    timed: Callable[[Cost], Timed], tokenizer: Tokenizer
) -> None:
    model = timed(bound_by_memory)
    engine = Engine(model, tokenizer, 4, 100)
    run(engine, [greedy([5], 9)])
    model.passes.clear()
    engine.submit(greedy([7] * 250, 2))
    engine.submit(greedy([8] * 250, 2))
    for _ in range(4):
        engine.step()
    assert model.passes == [(0, 100)] * 4


def test_one_slow_step_changes_hardly_anything() -> None:
    pace = Pace()
    for _ in range(10):
        pace.learn(0.010, 4, 0)
    loads = []
    for step in itertools.count():
        load = pace.load(4, 500)
        loads.append(load)
        pace.learn(0.5 if step == 8 else 0.010 + 0.0002 * load, 4, load)
        if step == 60:
            break
    assert loads[7] == pytest.approx(35, abs=2)
    assert loads[9] == pytest.approx(35, abs=8)
    assert loads[30] == pytest.approx(35, abs=5)


def by_many_small_operators(talking: int, prompts: int) -> float:
    """The torch path as measured on two cores: prompt rows have a fixed cost, each talker costs less."""
    alone = 6.5e-3 + 0.75e-3 * talking - 6.5e-6 * talking**2
    return alone + (3e-3 + 0.16e-3 * prompts if prompts else 0)


def test_a_growing_crowd_is_read_at_full_pace_though_prompts_wait_all_the_time() -> None:
    pace = Pace()
    pace.learn(by_many_small_operators(1, 0), 1, 0)
    pace.learn(0.3, 2, 8)  # the first step of its shape: what it needs is prepared
    stretches = []
    for step in range(400):
        talking = min(31, 1 + step // 10)
        load = pace.load(talking, 128 - talking)
        seconds = by_many_small_operators(talking, load)
        stretches.append(seconds / by_many_small_operators(talking, 0))
        pace.learn(seconds, talking, load)
    assert 1.5 <= statistics.median(stretches[200:]) <= 1.75
    assert max(stretches[50:]) <= 2


def test_texts_that_grow_do_not_choke_the_prompts_that_keep_coming() -> None:
    pace = Pace()
    for _ in range(100):
        pace.learn(0.004, 8, 0)
    stretches = []
    for step in range(600):
        alone = 0.004 + 0.00001 * step  # attention reads more with each token
        load = pace.load(8, 120)
        pace.learn(seconds := alone + 0.00015 * load, 8, load)
        stretches.append(seconds / alone)
    assert 1.5 <= statistics.median(stretches[300:]) <= 1.75
    assert max(stretches) <= 2


def test_one_slow_step_without_prompts_does_not_open_the_gate() -> None:
    pace = Pace()
    for _ in range(50):
        pace.learn(0.010, 4, 0)
        pace.learn(0.010 + 0.0002 * pace.load(4, 500), 4, pace.load(4, 500))
    pace.learn(2.0, 4, 0)
    assert pace.load(4, 500) == pytest.approx(35, abs=12)
