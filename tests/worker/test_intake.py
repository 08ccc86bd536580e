"""Jobs through intake, device and heartbeat: the database and the engine are real, the network is tiny."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update
from tokenizers import Tokenizer

from jobs import lifecycle
from jobs.attempts import NewJob
from jobs.database import Database
from jobs.queue import make_signals
from jobs.settings import Settings
from jobs.signals import Signals
from jobs.states import State
from jobs.tables import jobs
from tests.conftest import wait_for
from tests.jobs import samples
from tests.worker.conftest import EOS, MakeEngine
from worker.device import Device
from worker.heartbeat import Heartbeat
from worker.intake import Intake
from worker.lanes import Lane, Lanes

LEASE, EVERY = timedelta(seconds=5), timedelta(seconds=1)


@dataclass
class Bench:
    """A worker's threads around one engine, and the door to its queue."""

    database: Database
    owner: int
    lane: Lane
    intake: Intake
    heartbeat: Heartbeat
    device: Device
    threads: list[threading.Thread] = field(default_factory=list)
    gates: list[threading.Semaphore] = field(default_factory=list)

    def submit(self, name: str, prompts: list[Any] | None = None, n: int = 1, **sampling: Any) -> None:
        asked = {"max_tokens": 8, "seed": 1, "ignore_eos": True} | sampling
        task = {"prompts": prompts or ["hello"], "n": n, "sampling": asked}
        with self.database.transaction() as connection:
            lifecycle.submit(connection, samples.new(self.owner, name, input=task))
        self.intake.wake()

    def start(self, target: Callable[..., object], *arguments: Any) -> None:
        self.threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self.threads[-1].start()

    def state(self, name: str) -> State:
        return State(samples.row(self.database, name).state)

    def ended(self, name: str) -> Any:
        wait_for(lambda: self.state(name) not in {State.QUEUED, State.RUNNING})
        return samples.row(self.database, name)


@pytest.fixture
def signals(settings: Settings) -> Iterator[Signals]:
    made = make_signals(settings)
    yield made
    made.close()


@pytest.fixture
def bench(
    database: Database,
    owner: int,
    signals: Signals,
    settings: Settings,
    make_engine: MakeEngine,
    tokenizer: Tokenizer,
) -> Iterator[Bench]:
    """Intake and device run; the heartbeat beats when a test says so."""
    busy = threading.Event()
    lanes = Lanes(settings, busy)
    lane = lanes[samples.MODEL] = Lane(samples.MODEL, make_engine(), tokenizer, "digest", busy)
    intake = Intake(database, signals, lanes, "w", LEASE, max_failures=2)
    device = Device(busy)
    made = Bench(database, owner, lane, intake, Heartbeat(database, intake, lanes, LEASE, EVERY), device)
    made.start(device.run, lanes, intake.finish, intake.fail)
    made.start(intake.run)
    yield made
    for gate in made.gates:
        gate.release(1000)
    intake.stop(timedelta(0))
    made.device.stop()
    for thread in made.threads:
        thread.join(timeout=10)


def test_a_job_with_several_prompts_and_n_answers_in_their_order(bench: Bench) -> None:
    bench.submit("a", prompts=["hello", [5, 6, 7]], n=2, temperature=0)
    output = bench.ended("a").output
    texts = [sequence["text"] for sequence in output["sequences"]]
    assert len(texts) == 4
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert output["prompt_tokens"] == len("hello") + 3
    assert output["output_tokens"] == 4 * 8


def test_the_sequences_of_one_job_are_drawn_apart(bench: Bench) -> None:
    bench.submit("a", n=3, temperature=1.5, max_tokens=12)
    assert len({sequence["text"] for sequence in bench.ended("a").output["sequences"]}) == 3


def test_a_prompt_that_does_not_fit_fails_its_job_alone(bench: Bench) -> None:
    bench.submit("bad", prompts=[[1] * 300])
    bench.submit("good")
    assert bench.ended("bad").error["code"] == "invalid_prompt"
    assert bench.ended("good").state == State.SUCCEEDED


def test_a_result_that_cannot_be_stored_fails_its_job_alone(bench: Bench) -> None:
    finish = bench.intake.finish

    def spoil(sequence: Any) -> None:
        if sequence.sampling.seed == 13:
            sequence.tokens[0] = float("nan")  # json has no NaN, and PostgreSQL says so
        finish(sequence)

    bench.device.stop()
    wait_for(lambda: not bench.threads[0].is_alive())
    again = Device(bench.lane.busy)
    bench.device = again
    bench.start(again.run, {samples.MODEL: bench.lane}, spoil, bench.intake.fail)
    bench.submit("bad", seed=13)
    bench.submit("good", seed=14)
    assert bench.ended("bad").error["code"] == "server_error"
    assert bench.ended("good").state == State.SUCCEEDED


def test_an_engine_that_crashes_hands_its_jobs_back_and_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, crashes = bench.lane.engine.model.forward, iter([True])

    def crash_once(rows: Any) -> Any:
        if next(crashes, False):
            raise RuntimeError("the device is gone")
        return forward(rows)

    monkeypatch.setattr(bench.lane.engine.model, "forward", crash_once)
    bench.submit("a")
    row = bench.ended("a")
    assert (row.state, row.attempt, row.failures) == (State.SUCCEEDED, 2, 1)


def test_a_job_whose_every_attempt_crashes_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(rows: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(bench.lane.engine.model, "forward", crash)
    bench.submit("a")
    row = bench.ended("a")
    assert (row.state, row.failures, row.error["code"]) == (State.FAILED, 2, "server_error")


def test_a_cancelled_job_keeps_what_it_had(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=200)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    for _ in range(6):
        gate.release()
    wait_for(lambda: bench.lane.engine.steps >= 6)
    with bench.database.transaction() as connection:
        lifecycle.request_cancel(connection, "a", bench.owner)
    bench.heartbeat.look()
    row = bench.ended("a")
    assert row.state == State.CANCELLED
    assert 1 <= row.output["output_tokens"] < 200
    assert row.output["sequences"][0]["text"]
    gate.release()


def test_a_lost_lease_drops_the_work_and_writes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    samples.alter(bench.database, "a", attempt=7)  # somebody else claimed it since
    bench.heartbeat.beat()
    assert bench.intake.claims() == []
    gate.release(60)
    wait_for(lambda: bench.lane.engine.idle)
    row = samples.row(bench.database, "a")
    assert (row.state, row.attempt, row.output) == (State.RUNNING, 7, None)


def test_a_device_that_hangs_renews_no_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    wait_for(lambda: not bench.lane.engine.idle)
    bench.heartbeat.beat()
    before = samples.row(bench.database, "a").lease_until
    pass_time(monkeypatch, EVERY + timedelta(seconds=0.1))  # no step since
    bench.heartbeat.beat()
    assert samples.row(bench.database, "a").lease_until == before
    gate.release(60)
    assert bench.ended("a").state == State.SUCCEEDED


def test_a_device_that_hangs_for_a_lease_ends_its_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, exits = slow_down(bench, monkeypatch), list[int]()
    monkeypatch.setattr("worker.heartbeat.os._exit", exits.append)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    wait_for(lambda: not bench.lane.engine.idle)
    bench.heartbeat.beat()
    pass_time(monkeypatch, LEASE + timedelta(seconds=0.1))
    bench.heartbeat.beat()
    assert exits == [1]
    gate.release(60)


def test_our_own_stop_hands_jobs_back_uncharged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    bench.intake.stop(timedelta(0))
    row = samples.row(bench.database, "a")
    assert (row.state, row.attempt, row.failures, row.crashes) == (State.QUEUED, 1, 0, 0)
    gate.release(60)


def test_a_suspect_runs_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("running", max_tokens=20)
    wait_for(lambda: bench.state("running") == State.RUNNING)
    with bench.database.transaction() as connection:
        lifecycle.submit(connection, suspect(bench.owner))
        connection.execute(update(jobs).where(jobs.c.id == "suspect").values(crashes=2))
    bench.submit("after")
    alone = []

    def watch() -> bool:
        gate.release()
        states = samples.states(bench.database)
        if states["suspect"] == State.RUNNING:
            alone.append([name for name, state in states.items() if state == State.RUNNING])
        return all(state == State.SUCCEEDED for state in states.values())

    wait_for(watch)
    assert len(alone) > 10, "it ran for a while, and others were due"
    assert all(running == ["suspect"] for running in alone)


def suspect(owner: int) -> NewJob:
    asked = {"max_tokens": 100, "seed": 1, "ignore_eos": True}
    task = {"prompts": [[EOS]], "n": 1, "sampling": asked}
    return samples.new(owner, "suspect", input=task)


def pass_time(monkeypatch: pytest.MonkeyPatch, span: timedelta) -> None:
    """Let the heartbeat's clock jump."""
    now = time.monotonic
    clock = SimpleNamespace(monotonic=lambda: now() + span.total_seconds())
    monkeypatch.setattr("worker.heartbeat.time", clock)


def slow_down(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Let the engine step only when the test releases one; at most 10 s late, so that no test hangs."""
    gate, forward = threading.Semaphore(0), bench.lane.engine.model.forward

    def wait_then_forward(rows: Any) -> Any:
        gate.acquire(timeout=10)
        return forward(rows)

    monkeypatch.setattr(bench.lane.engine.model, "forward", wait_then_forward)
    bench.gates.append(gate)
    return gate
