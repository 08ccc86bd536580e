"""A worker that hangs or is broken hands its leases up and ends; a supervisor starts another."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy import update
from tokenizers import Tokenizer

from jobs import lifecycle, submission
from jobs.database import Database
from jobs.settings import Settings
from jobs.states import State
from jobs.tables import jobs
from tests.conftest import wait_for
from tests.jobs import samples
from tests.worker.whole import LEASE, Bench, slow_down, working
from worker.breakdown import is_device_lost, is_out_of_memory
from worker.stillness import Stillness
from worker.watchdog import Watchdog

STEP_TIMEOUT = 0.4  # seconds


@pytest.fixture
def bench(database: Database, owner: int, settings: Settings, tokenizer: Tokenizer) -> Iterator[Bench]:
    with working(database, owner, settings, tokenizer) as made:
        yield made


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process lives on, and this has the status it would have ended with."""
    found: list[int] = []
    monkeypatch.setattr("worker.watchdog.os._exit", found.append)
    return found


@pytest.fixture
def watchdog(bench: Bench) -> Iterator[Watchdog]:
    """Of a device that may stand still for a moment."""
    made = Watchdog(bench.database, bench.intake, LEASE)
    made.watch("device", lambda: bench.device.pulse(bench.roster.residents), STEP_TIMEOUT)
    bench.start(made.run)
    yield made
    made.stop()


def hang(bench: Bench, monkeypatch: pytest.MonkeyPatch, steps: int = 0) -> threading.Semaphore:
    """A job that makes some steps and hangs in the next."""
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    if steps:
        gate.release(steps)
    return gate


def test_a_step_that_hangs_gives_its_jobs_to_others_and_ends_the_process(
    bench: Bench, watchdog: Watchdog, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hang(bench, monkeypatch, steps=3)
    wait_for(lambda: exits == [1])
    row = samples.row(bench.database, "a")
    assert (row.state, row.attempt, row.failures, row.crashes) == (State.QUEUED, 1, 0, 1)
    assert row.reached == row.reached_at_death == 3, "its tokens are known"
    gate.release(60)


def test_a_worker_that_gave_up_claims_nothing_more(
    bench: Bench, watchdog: Watchdog, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hang(bench, monkeypatch)
    wait_for(lambda: exits == [1])
    turns = bench.intake.turns
    bench.submit("b")
    wait_for(lambda: bench.intake.wake() or bench.intake.turns > turns + 3)  # type: ignore[func-returns-value]
    assert set(samples.states(bench.database).values()) == {State.QUEUED}
    gate.release(60)


def test_results_that_are_on_their_way_are_stored_before_the_end(
    bench: Bench, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, ready = bench.intake._commit, threading.Event()
    monkeypatch.setattr(
        bench.intake, "_commit", lambda group: (not group or ready.wait(10)) and commit(group)
    )
    bench.submit("done", max_tokens=2)
    wait_for(lambda: bench.intake._endings)
    giving_up = threading.Thread(target=Watchdog(bench.database, bench.intake, LEASE).give_up)
    giving_up.start()
    ready.set()
    giving_up.join()
    assert exits == [1]
    assert bench.state("done") == State.SUCCEEDED


def test_without_a_database_it_ends_all_the_same(
    bench: Bench, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hang(bench, monkeypatch)
    away = Database("postgresql+psycopg://penstock@127.0.0.1:1/postgres", connections=1)
    Watchdog(away, bench.intake, LEASE).give_up()
    away.close()
    assert exits == [1]
    assert bench.state("a") == State.RUNNING, "its lease runs out"
    gate.release(60)


def test_a_database_that_does_not_answer_holds_nobody_up(
    bench: Bench, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.watchdog._HAND_UP_SECONDS", 0.1)
    monkeypatch.setattr("worker.watchdog._RESULTS_SECONDS", 0.1)
    answer = threading.Event()
    monkeypatch.setattr(lifecycle, "surrender", lambda *_: {State.QUEUED: answer.wait(10)})
    start = time.monotonic()
    Watchdog(bench.database, bench.intake, LEASE).give_up()
    assert time.monotonic() - start < 5
    assert exits == [1]
    answer.set()
    wait_for(lambda: not any(thread.name == "last words" for thread in threading.enumerate()))


def test_a_thread_that_stands_still_ends_the_process(bench: Bench, exits: list[int]) -> None:
    made = Watchdog(bench.database, bench.intake, LEASE)
    made.watch("moves", time.monotonic, 0.1)
    made.watch("rests", lambda: None, 0.1)
    bench.start(made.run)
    made.stop()
    bench.threads[-1].join(10)
    assert exits == []
    other = Watchdog(bench.database, bench.intake, LEASE)
    other.watch("heartbeat", lambda: 7, 0.1)
    bench.start(other.run)
    wait_for(lambda: exits == [1])


def test_a_thread_that_dies_ends_the_process_and_gives_its_jobs_to_others(
    bench: Bench, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hang(bench, monkeypatch)
    monkeypatch.setattr(threading, "excepthook", Watchdog(bench.database, bench.intake, LEASE).end_process)
    monkeypatch.setattr(bench.heartbeat, "beat", lambda: [][0])
    bench.start(bench.heartbeat.run)
    wait_for(lambda: exits == [1])
    row = samples.row(bench.database, "a")
    assert (row.state, row.crashes) == (State.QUEUED, 1)
    gate.release(60)


def test_how_far_a_suspect_has_come_is_told_many_times_a_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.heartbeat, "_every", 1000.0)
    bench.start(bench.heartbeat.run)
    gate = hang(bench, monkeypatch, steps=50)
    bench.ended("a")
    assert samples.row(bench.database, "a").reached == 0, "others tell it with their leases"
    task = {"prompts": ["hello"], "sampling": {"max_tokens": 50, "seed": 1, "ignore_eos": True}}
    with bench.database.transaction() as connection:
        submission.submit(connection, samples.new(bench.owner, "suspect", input=task))
        connection.execute(update(jobs).where(jobs.c.id == "suspect").values(crashes=2))
    wait_for(lambda: bench.state("suspect") == State.RUNNING)
    for tokens in range(1, 4):
        gate.release()
        wait_for(lambda tokens=tokens: samples.row(bench.database, "suspect").reached >= tokens)
    gate.release(60)
    bench.ended("suspect")


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    ],
    ids=["torch", "cublas"],
)
def test_an_error_of_cuda_ends_the_process_and_is_one_death_of_its_jobs(
    bench: Bench, exits: list[int], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(rows: Any) -> Any:
        raise error

    monkeypatch.setattr(threading, "excepthook", Watchdog(bench.database, bench.intake, LEASE).end_process)
    monkeypatch.setattr(bench.engine.model, "forward", fail)
    bench.submit("a")
    wait_for(lambda: exits == [1])
    row = samples.row(bench.database, "a")
    assert (row.state, row.failures, row.crashes) == (State.QUEUED, 0, 1)


@pytest.mark.parametrize(
    ("error", "full", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True, False),
        (MemoryError(), True, False),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
            True,
            False,
        ),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True, False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu!"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
    ids=str,
)
def test_what_torch_raises_is_told_apart(error: Exception, full: bool, lost: bool) -> None:
    assert (is_out_of_memory(error), is_device_lost(error)) == (full, lost)


def test_a_process_that_was_stopped_for_long_is_not_taken_for_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("worker.stillness.time", SimpleNamespace(monotonic=lambda: clock.now))
    still = Stillness(lambda: 1, most=2)
    found = []
    for span in (1, 1, 1, timedelta(hours=1).total_seconds(), 1):
        clock.now += span
        found.append(still.look())
    assert found == [0, 1, 2, 4, 5]
