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


def test_one_slow_step_is_soon_forgotten() -> None:
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
    assert LEAST <= loads[9] < 20
    assert loads[30] == pytest.approx(35, abs=5)


def test_one_slow_step_without_prompts_does_not_open_the_gate() -> None:
    pace = Pace()
    for _ in range(50):
        pace.learn(0.010, 4, 0)
        pace.learn(0.010 + 0.0002 * pace.load(4, 500), 4, pace.load(4, 500))
    pace.learn(2.0, 4, 0)
    assert pace.load(4, 500) == pytest.approx(35, abs=12)
