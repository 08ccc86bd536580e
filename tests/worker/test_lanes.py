"""Lanes and turns: adapters share a model's batch, and models share the device's time."""

import threading
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer

from jobs.errors import InvalidPrompt
from tests.worker.conftest import greedy
from tests.worker.lanes import FakeModel, make_lane
from worker.adapters import Adapter
from worker.device import Turns
from worker.engine import Engine
from worker.lanes import Lane
from worker.sequence import Sequence


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def lane(model: FakeModel, tokenizer: Tokenizer) -> Lane:
    return make_lane(
        "starter", tokenizer, threading.Event(), Engine(model, tokenizer, slots=4, token_budget=32)
    )


def adapters(count: int) -> list[Adapter]:
    return [Adapter(f"digest {number}", 4, {}) for number in range(count)]


def finish(lane: Lane) -> list[Sequence]:
    finished: list[Sequence] = []
    for _ in range(1000):
        if lane.idle:
            return finished
        lane.let_go()
        finished += lane.step()
    raise AssertionError("the lane does not come to rest")


def test_free_slots_are_those_that_nobody_holds_or_waits_for(lane: Lane) -> None:
    assert lane.free == 4
    lane.submit([greedy([1, 2]), greedy([3])], None)
    assert lane.free == 2
    lane.step()
    assert lane.free == 2
    lane.submit([greedy([number + 1]) for number in range(5)], None)
    assert lane.free == 0
    finish(lane)
    assert lane.free == 4


def test_a_beam_search_waits_for_as_many_slots_as_it_has_beams(lane: Lane) -> None:
    lane.submit([greedy([1, 2], num_beams=3)], None)
    assert lane.free == 1


def test_one_that_does_not_fit_ends_with_an_error_and_the_others_go_on(lane: Lane) -> None:
    bad, good = greedy([1] * 300), greedy([1])
    lane.submit([bad, good], None)
    assert set(finish(lane)) == {bad, good}
    assert isinstance(bad.error, InvalidPrompt)
    assert good.error is None
    assert len(good.tokens) == 8


def test_one_that_was_dropped_is_not_returned_and_its_slot_is_free(lane: Lane) -> None:
    unwanted, newcomer = greedy([1], 50), greedy([2], 50)
    lane.submit([unwanted], None)
    lane.step()
    lane.submit([newcomer], None)
    lane.drop(unwanted)
    lane.drop(newcomer)
    assert finish(lane) == []
    assert lane.free == 4


def test_a_lane_is_busy_from_the_submit_until_the_last_one_left(lane: Lane) -> None:
    assert lane.idle
    lane.submit([greedy([1], 2)], None)
    assert not lane.idle
    finish(lane)
    assert lane.idle


def test_adapters_speak_in_one_batch_with_their_model(lane: Lane, model: FakeModel) -> None:
    one, other = adapters(2)
    said = [greedy([1]), greedy([1]), greedy([1]), greedy([1])]
    for sequence, adapter in zip(said, [None, one, other, one], strict=True):
        lane.submit([sequence], adapter)
    lane.step()
    assert [sequence.adapter for sequence in said] == [None, 0, 1, 0]
    assert all(sequence.tokens for sequence in said), "all of them spoke in one step"


def test_the_least_recently_used_adapter_makes_room_for_another(
    lane: Lane, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lanes.MOST_ADAPTERS", 2)
    a, b, c = adapters(3)
    for adapter in (a, b, a):
        lane.submit([greedy([1], 1)], adapter)
        finish(lane)
    assert list(model.adapters.values()) == [a, b]
    lane.submit([new := greedy([1], 1)], c)
    lane.submit([old := greedy([1], 1)], a)
    finish(lane)
    assert (new.adapter, old.adapter) == (1, 0)
    assert list(model.adapters.values()) == [a, c], "b was forgotten"


def test_an_adapter_waits_while_sequences_have_all_the_others(
    lane: Lane, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lanes.MOST_ADAPTERS", 2)
    a, b, c = adapters(3)
    first, second, waits, behind = greedy([1], 3), greedy([1], 9), greedy([1], 1), greedy([1], 1)
    for sequence, adapter in ((first, a), (second, b), (waits, c), (behind, a)):
        lane.submit([sequence], adapter)
    order = finish(lane)
    assert order.index(first) < order.index(waits) < order.index(second)
    assert order.index(waits) < order.index(behind), "nobody overtakes it with an adapter that is there"


@pytest.fixture
def two(tokenizer: Tokenizer) -> list[Lane]:
    return [make_lane(name, tokenizer, threading.Event()) for name in ("slow", "quick")]


def take_turns(turns: Turns, lanes: list[Lane], seconds: Callable[[Lane], float], count: int) -> list[str]:
    said = []
    for _ in range(count):
        lane = turns.next(lanes)
        turns.charge(lane, seconds(lane))
        said.append(lane.source.name)
    return said


def test_models_share_time_and_not_steps(two: list[Lane]) -> None:
    said = take_turns(Turns(), two, lambda lane: 0.03 if lane is two[0] else 0.003, 110)
    assert 9 <= said.count("slow") <= 11


def test_who_rested_has_saved_nothing_up(two: list[Lane]) -> None:
    turns = Turns()
    take_turns(turns, two[:1], lambda _: 1.0, 100)
    said = take_turns(turns, two, lambda _: 1.0, 10)
    assert said.count("quick") in (5, 6)


def test_who_rests_for_a_moment_keeps_its_debt(two: list[Lane]) -> None:
    slow, quick = two
    turns, had = Turns(), dict.fromkeys(two, 0.0)
    for turn in range(200):  # the slow one's jobs are of one step each: it is idle after every one
        working = [quick] if turn % 2 else two
        lane = turns.next(working)
        seconds = 0.03 if lane is slow else 0.003
        turns.charge(lane, seconds)
        had[lane] += seconds
    assert had[slow] < 2 * had[quick]


def test_after_a_rest_of_everybody_the_count_begins_anew(two: list[Lane]) -> None:
    turns = Turns()
    take_turns(turns, two[:1], lambda _: 1.0, 100)
    turns.next(two[1:])
    said = take_turns(turns, two, lambda _: 1.0, 10)
    assert said.count("slow") in (5, 6)
