"""How an attempt ends, from what happened to what its row says."""

from collections.abc import Mapping
from typing import Any

import pytest

from jobs import execution, lifecycle
from jobs.database import Database
from jobs.errors import (
    InvalidPrompt,
    JobError,
    ModelUnavailable,
    NumericalError,
    OutOfMemory,
    Poisoned,
    Unexpected,
    WorkerStopping,
)
from jobs.states import State
from tests.jobs import samples


@pytest.mark.parametrize(
    ("outcome", "state", "failures", "code"),
    [
        ({"text": "hi"}, State.SUCCEEDED, 0, None),
        (InvalidPrompt("too long"), State.FAILED, 1, "invalid_prompt"),
        (ModelUnavailable("no such model"), State.FAILED, 1, "model_unavailable"),
        (NumericalError("nan"), State.FAILED, 1, "numerical_error"),
        (OutOfMemory("no room"), State.QUEUED, 1, "out_of_memory"),
        (WorkerStopping("stopping"), State.QUEUED, 0, "worker_stopping"),
        (Unexpected("a defect"), State.QUEUED, 1, "server_error"),
        (ZeroDivisionError("a defect"), State.QUEUED, 1, "server_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_ending_has_its_state(
    database: Database,
    owner: int,
    outcome: Mapping[str, Any] | Exception,
    state: State,
    failures: int,
    code: str | None,
) -> None:
    samples.submit(database, owner, ["a"])
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [execution.ending(job, outcome, max_failures=3)])
    row = samples.row(database, "a")
    assert (row.state, row.failures, row.attempt) == (state, failures, 1)
    assert (row.error and row.error["code"]) == code
    assert row.output == (outcome if state is State.SUCCEEDED else None)


@pytest.mark.parametrize(("before", "state"), [(0, State.QUEUED), (1, State.QUEUED), (2, State.FAILED)])
def test_the_third_charged_failure_is_the_last(
    database: Database, owner: int, before: int, state: State
) -> None:
    samples.submit(database, owner, ["a"])
    samples.alter(database, "a", failures=before)
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [execution.ending(job, OutOfMemory("no room"), max_failures=3)])
    assert samples.row(database, "a").state == state


def test_our_own_shutdown_never_costs_a_job_its_last_try(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a"])
    samples.alter(database, "a", failures=2)
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [execution.ending(job, WorkerStopping("stopping"), max_failures=3)])
    row = samples.row(database, "a")
    assert (row.state, row.failures) == (State.QUEUED, 2)
    assert [again.claim.attempt for again in samples.claim(database)] == [2], "and it need not wait"


def test_a_client_never_reads_the_text_of_a_crash(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a"])
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [execution.ending(job, RuntimeError("secret"), max_failures=1)])
    assert "secret" not in samples.row(database, "a").error["message"]


def test_every_error_has_a_code_of_its_own_that_never_changes() -> None:
    codes = {error.__name__: error.code for error in JobError.__subclasses__()}
    assert codes == {
        "InvalidPrompt": "invalid_prompt",
        "InvalidTrainingFile": "invalid_training_file",
        "InvalidValidationFile": "invalid_validation_file",
        "TrainingDiverged": "training_diverged",
        "TrainingStalled": "training_stalled",
        "TrainingCrashed": "training_crashed",
        "TrainingPaused": "training_paused",
        "DiskFull": "insufficient_storage",
        "HubFailed": "hub_failed",
        "ModelUnavailable": "model_unavailable",
        "NumericalError": "numerical_error",
        "OutOfMemory": "out_of_memory",
        "WorkerStopping": "worker_stopping",
        "Poisoned": Poisoned.code,
        "DeadlineExceeded": "deadline_exceeded",
        "Unexpected": "server_error",
    }
