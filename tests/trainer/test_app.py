"""The trainer as a process of its own: bells, signals, deaths. Real PostgreSQL, Redis and Celery."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from jobs import lifecycle
from jobs.queue import QueueName, make_signals
from jobs.settings import Settings
from jobs.states import State
from jobs.tables import job_events
from tests.conftest import ROOT, wait_for
from tests.trainer.conftest import JOB, Bench
from trainer.child import _processes

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(bench: Bench, tmp_path: Path) -> Iterator[Start]:
    """Starts a trainer's process; all are killed in the end."""
    started: list[subprocess.Popen[bytes]] = []
    clean = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    own = {
        "PYTHONPATH": str(ROOT),
        "VAR_DIR": str(tmp_path / "here"),
        "DATABASE_URL": bench.settings.database,
        "REDIS_URL": bench.settings.redis,
        "ARTIFACTS_URL": bench.settings.artifacts,
        "LEASE_SECONDS": "3",
        "HEARTBEAT_SECONDS": "0.5",
        "DRAIN_SECONDS": "10",
        "DEVICE": "cpu",
    }

    def begin(**more: str) -> "subprocess.Popen[bytes]":
        log = (tmp_path / "trainer.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.app"],
            cwd=ROOT,
            env=clean | own | more,
            stdout=log,
            stderr=log,
        )
        log.close()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def runs_so_far(bench: Bench) -> int:
    """How often the job was begun."""
    with bench.database.transaction() as connection:
        moves = select(job_events.c.id).where(
            job_events.c.job_id == JOB, job_events.c.state == State.RUNNING, job_events.c.message.is_(None)
        )
        return len(connection.execute(moves).all())


def ended(bench: Bench, seconds: float = 30) -> State:
    wait_for(lambda: bench.row().finished_at, seconds)
    return State(bench.row().state)


def rescue(bench: Bench) -> None:
    """What the sweeper does, once the lease has run out."""

    def swept() -> bool:
        with bench.database.transaction() as connection:
            return bool(lifecycle.recover_lost(connection))

    wait_for(swept)


def test_a_job_longer_than_the_brokers_visibility_timeout_runs_once(bench: Bench, start: Start) -> None:
    start()
    bench.submit("message begun", "sleep 8", "done 9")
    signals = make_signals(bench.settings)
    for _ in range(3):
        signals.ring(QueueName.TRAIN)
    assert ended(bench) == State.SUCCEEDED
    signals.close()
    assert (runs_so_far(bench), bench.row().attempt) == (1, 1)


def test_a_trainer_that_is_told_to_end_saves_a_checkpoint_and_hands_the_job_back(
    bench: Bench, start: Start
) -> None:
    bench.submit("message begun", "until_stop")
    process = start()
    bench.wait_for_message("begun")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    row = bench.row()
    assert (row.state, row.failures, row.crashes) == (State.QUEUED, 0, 0)
    assert bench.checkpoints() == [5]
    assert not _processes(bench.folder())


def test_a_trainer_that_is_killed_takes_its_child_along_and_another_goes_on(
    bench: Bench, start: Start
) -> None:
    bench.submit("checkpoint 3", "message saved", "hang_unless 3", "done 9")
    process = start()
    bench.wait_for_message("saved")
    process.kill()
    began = time.monotonic()
    wait_for(lambda: not _processes(bench.folder()), 5)
    assert time.monotonic() - began < 5
    rescue(bench)
    assert bench.row().crashes == 1
    start()
    assert ended(bench) == State.SUCCEEDED
    assert "The training goes on from its checkpoint of step 3." in bench.messages()
    assert bench.row().output["trained_tokens"] == 90


@pytest.mark.parametrize("point", ["before_checkpoint_row", "after_checkpoint_row", "before_settle_commit"])
def test_a_trainer_that_is_killed_around_a_row_loses_no_checkpoint(
    bench: Bench, start: Start, point: str
) -> None:
    bench.submit("checkpoint 3", "checkpoint 6", "done 9")
    process = start(FAILPOINTS=f"{point}=kill")
    assert process.wait(timeout=30) == -signal.SIGKILL
    rescue(bench)
    start()
    assert ended(bench) == State.SUCCEEDED
    assert "The training goes on from its checkpoint of step" in "".join(bench.messages())
    assert (bench.row().attempt, bench.row().output["trained_tokens"]) == (2, 90)


def test_the_folder_of_a_job_that_ended_is_removed(bench: Bench, start: Start) -> None:
    bench.submit("checkpoint 3", "done 9")
    start()
    assert ended(bench) == State.SUCCEEDED
    wait_for(lambda: not bench.folder().exists())
