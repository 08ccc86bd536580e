"""Models in memory: loaded when a job waits for them, the least recently used out for them."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from jobs.errors import ModelUnavailable
from jobs.settings import Settings
from tests.conftest import wait_for
from tests.worker.conftest import greedy
from tests.worker.lanes import FakeModel, make_lane
from worker.adapters import Adapter
from worker.lanes import Lane
from worker.residents import Residents

BUDGET = 110  # a loaded model of size 40 takes 44: its four slots take 1 each


@dataclass
class Hall:
    """Residents whose models are all the tiny one, with sizes as a test says."""

    residents: Residents
    tokenizer: Tokenizer
    busy: threading.Event
    failures: list[tuple[Lane, Exception]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def lane(self, name: str, size: int) -> Lane:
        made = make_lane(name, self.tokenizer, self.busy, size=size)
        self.residents.add(made)
        return made

    def want(self, *lanes: Lane) -> None:
        self.residents.want(
            list(lanes), lambda lane, error: self.failures.append((lane, error)), self.busy.set
        )

    def have(self, *lanes: Lane) -> None:
        """Want each until it is there."""
        for lane in lanes:
            self.want(lane)
            wait_for(lambda: self.residents.loading is None)
            assert lane.engine is not None, self.failures

    def release_always(self) -> None:
        while not self.stopped.is_set():
            self.busy.wait(0.05)
            self.residents.release()


@pytest.fixture
def hall(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    def load(source: str, *_: Any) -> Any:
        if "broken" in source:
            raise ModelUnavailable(f"{source}: the tensor wte.weight holds NaN or infinity.")
        digest = "changed" if "changed" in source else "digest"
        return SimpleNamespace(
            model=FakeModel(), tokenizer=tokenizer, digest=digest, quantization="fp32", path="torch"
        )

    monkeypatch.setattr("worker.residents.load", load)
    busy = threading.Event()
    made = Hall(Residents(Settings(), BUDGET, busy), tokenizer, busy)
    device = threading.Thread(target=made.release_always, daemon=True)
    device.start()
    yield made
    made.stopped.set()
    device.join(timeout=5)


def test_a_model_is_loaded_when_jobs_wait_for_it(hall: Hall) -> None:
    first, second = hall.lane("first", 50), hall.lane("second", 50)
    hall.have(first)
    assert second.engine is None
    hall.have(second)
    assert hall.residents.loaded == [first, second]
    assert second.path == "torch"


def test_a_pass_has_the_threads_that_the_settings_ask_for(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def load(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        raise ModelUnavailable("that is all this test wants to know.")

    monkeypatch.setattr("worker.residents.load", load)
    busy = threading.Event()
    residents = Residents(Settings(torch_threads=3), BUDGET, busy)
    with pytest.raises(ModelUnavailable):
        residents.load(make_lane("a", tokenizer, busy, size=1))
    assert asked == [3]


def test_the_least_recently_used_goes_and_its_memory_with_it(hall: Hall) -> None:
    a, b, c = (hall.lane(name, 40) for name in "abc")
    hall.have(a, b)
    a.submit([greedy([1], 1)], None)
    while not a.idle:
        a.step()
    assert b.engine is not None
    gone = weakref.ref(b.engine.model)
    hall.have(c)
    assert hall.residents.loaded == [a, c]
    assert gone() is None


def test_slots_are_counted_as_large_as_the_loaded_model_makes_them(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeModel, "slot_bytes", 30)
    lane = hall.lane("a", 40)
    hall.have(lane)
    assert lane.engine is not None
    assert lane.engine.slots == 2
    assert lane.need.total == 40 + 2 * 30


def guest(size: int) -> Adapter:
    """An adapter that takes `size` bytes as it was read, and as much again in its model."""
    nothing = torch.zeros(0, dtype=torch.uint8)
    return Adapter("digest", 4, {"h.0.attn.c_attn": (torch.zeros(size, dtype=torch.uint8), nothing)})


def test_adapters_that_come_later_take_the_room_of_models_that_rest(hall: Hall) -> None:
    a, b = hall.lane("a", 40), hall.lane("b", 40)
    hall.have(a, b)
    b.welcome(adapter := guest(15))
    assert b.total == 44 + 2 * adapter.bytes
    hall.want()
    assert hall.residents.loaded == [b]
    del adapter
    gc.collect()
    assert b.total == 44, "only as long as somebody holds it"


def test_a_model_has_fewer_slots_as_long_as_its_adapters_take_their_room(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeModel, "slot_bytes", 30)
    monkeypatch.setattr("worker.residents.gc", SimpleNamespace(collect=lambda: None))
    lane = hall.lane("a", 40)

    def slots() -> int:
        hall.residents.add(lane)
        hall.have(lane)
        assert lane.engine is not None
        found = lane.engine.slots
        assert hall.residents.dismiss(lane)
        return found

    assert slots() == 2
    lane.welcome(adapter := guest(15))
    assert slots() == 1
    del adapter
    assert slots() == 2


def test_a_model_that_is_dismissed_goes_once_its_batch_is_empty(hall: Hall) -> None:
    a = hall.lane("a", 40)
    hall.have(a)
    assert a.engine is not None
    gone = weakref.ref(a.engine.model)
    a.submit([greedy([1], 2)], None)
    assert not hall.residents.dismiss(a)
    while not a.idle:
        a.step()
    assert hall.residents.dismiss(a)
    assert hall.residents.lanes == ()
    wait_for(lambda: gone() is None)
    assert hall.residents.dismiss(a), "once more is the same"


def test_nobody_goes_where_there_is_room(hall: Hall) -> None:
    a, b, c = (hall.lane(name, 30) for name in "abc")
    hall.have(a, b, c)
    assert len(hall.residents.loaded) == 3


def test_a_model_in_use_stays_and_the_other_waits(hall: Hall) -> None:
    a, b = hall.lane("a", 60), hall.lane("b", 60)
    hall.have(a)
    a.submit([greedy([1], 3)], None)
    hall.want(b)
    assert (hall.residents.loading, b.engine) == (None, None)
    assert not a.drains, "it has not waited for long"
    while not a.idle:
        a.step()
    hall.have(b)
    assert a.engine is None


def test_a_model_that_waited_for_long_lets_the_busy_ones_run_empty(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, small = hall.lane("a", 60), hall.lane("b", 60), hall.lane("small", 10)
    hall.have(a, small)
    for lane in (a, small):
        lane.submit([greedy([1], 3)], None)
    hall.want(b)
    now = time.monotonic
    monkeypatch.setattr("worker.residents.time", SimpleNamespace(monotonic=lambda: now() + 11))
    hall.want(b)
    assert (a.drains, small.drains) == (True, False), "only as many as are needed"
    hall.want()  # its jobs were cancelled
    assert not a.drains


def test_one_that_is_too_large_now_does_not_hold_up_a_smaller_one(hall: Hall) -> None:
    a, large, small = hall.lane("a", 60), hall.lane("large", 90), hall.lane("small", 40)
    hall.have(a)
    a.submit([greedy([1], 3)], None)
    hall.want(large, small)
    wait_for(lambda: small.engine is not None)
    assert a.engine is not None


def test_a_model_that_cannot_be_loaded_says_why_and_is_not_tried_again(hall: Hall) -> None:
    broken, good = hall.lane("broken", 10), hall.lane("good", 10)
    hall.want(broken)
    wait_for(lambda: hall.failures and hall.residents.loading is None)
    assert hall.failures[0][0] is broken
    assert "NaN" in str(hall.failures[0][1])
    assert broken not in hall.residents.lanes
    hall.have(good)


def test_a_model_whose_logits_are_not_finite_says_so(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = FakeModel.forward
    monkeypatch.setattr(FakeModel, "forward", lambda self, rows: forward(self, rows) * float("inf"))
    hall.want(hall.lane("large", 10))
    wait_for(lambda: hall.failures)
    assert "models/large: its logits are not finite in fp32" in str(hall.failures[0][1])


def test_files_that_changed_since_they_were_described_are_not_served(hall: Hall) -> None:
    hall.want(hall.lane("changed", 10))
    wait_for(lambda: hall.failures)
    assert "have changed since the worker started; restart it" in str(hall.failures[0][1])


def test_the_others_step_while_a_model_is_loaded(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = hall.lane("a", 50), hall.lane("b", 50)
    hall.have(a)
    go_on, load = threading.Event(), hall.residents.load

    def slow(lane: Lane) -> None:
        assert go_on.wait(20)
        load(lane)

    monkeypatch.setattr(hall.residents, "load", slow)
    hall.want(b)
    a.submit([one := greedy([1], 3)], None)
    while not a.idle:
        a.step()
    assert one.finished
    assert hall.residents.loading is b
    go_on.set()
    wait_for(lambda: hall.residents.loading is None)
    gc.collect()
