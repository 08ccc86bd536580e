"""What a worker counts is what it did."""

import threading
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from tokenizers import Tokenizer

from tests.worker.conftest import greedy
from tests.worker.lanes import FakeModel, make_lane
from tests.worker.test_lanes import finish
from worker import meter
from worker.engine import Engine
from worker.lanes import Lane


def shown(name: str) -> float:
    return REGISTRY.get_sample_value(f"penstock_{name}") or 0.0


@pytest.fixture
def lane(tokenizer: Tokenizer) -> Lane:
    engine = Engine(FakeModel(), tokenizer, slots=4, token_budget=32)
    return make_lane("starter", tokenizer, threading.Event(), engine)


def test_every_token_is_counted_once_whoever_leaves_in_between(lane: Lane) -> None:
    before = shown("tokens_total"), shown("step_seconds_count"), shown("prefill_seconds_count")
    sequences = [greedy([number + 1], 5 + number) for number in range(6)]
    dropped = greedy([1], 50)
    lane.submit([dropped], None)
    lane.step()
    lane.submit(sequences, None)
    for _ in range(3):
        lane.step()
    lane.drop(dropped)
    finish(lane)
    written = sum(len(sequence.tokens) for sequence in [*sequences, dropped])
    assert shown("tokens_total") - before[0] == written
    assert shown("step_seconds_count") - before[1] == lane.steps
    assert shown("prefill_seconds_count") - before[2] == 7


def test_counting_goes_on_after_everybody_was_let_go(lane: Lane) -> None:
    lane.submit([greedy([1], 50)], None)
    for _ in range(5):
        lane.step()
    lane.abandon()
    before = shown("tokens_total")
    lane.submit([last := greedy([2], 4)], None)
    finish(lane)
    assert shown("tokens_total") - before == len(last.tokens) > 0


def test_slots_are_counted_when_somebody_asks(lane: Lane) -> None:
    class Residents:
        loaded = (lane,)

    meter.watch(Residents())
    assert (shown("slots"), shown("running_slots")) == (4, 0)
    lane.submit([greedy([1], 50), greedy([2], 50, num_beams=2)], None)
    assert (shown("slots"), shown("running_slots")) == (4, 3)


def test_a_worker_tells_of_the_ends_of_those_before_it(tmp_path: Path) -> None:
    before = shown("worker_given_up_total")
    meter.Ends(tmp_path).add()
    assert shown("worker_given_up_total") == before, "nobody can ask who dies"
    meter.Ends(tmp_path).add()
    assert shown("worker_given_up_total") == before + 1
    (tmp_path / "given-up").write_text("")  # the disk was full
    meter.Ends(tmp_path)
    assert shown("worker_given_up_total") == before + 1
