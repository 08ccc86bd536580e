"""What the death of its worker costs a job: three without progress between them end it, others do not."""

import pytest

from jobs import claims, lifecycle
from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.states import State
from tests.jobs import samples
from tests.jobs.samples import LEASE, MODEL, QUEUE


@pytest.fixture
def job(database: Database, owner: int) -> str:
    samples.submit(database, owner, ["a"])
    return "a"


def claim(database: Database) -> ClaimedJob:
    """Alone where it must be."""
    with database.transaction() as connection:
        taken = claims.claim(connection, QUEUE, MODEL, "w", LEASE, 1)
        taken = taken or claims.claim_suspect(connection, QUEUE, MODEL, "w", LEASE)
    return taken[0]


def die_at(database: Database, tokens: int) -> tuple[State, int]:
    """An attempt that says that it has so many tokens and dies; the job's state and deaths after it."""
    held = claim(database).claim
    with database.transaction() as connection:
        lifecycle.heartbeat(connection, [held], LEASE, {held: tokens})
        lifecycle.surrender(connection, [held])
    row = samples.row(database, held.job_id)
    return State(row.state), row.crashes


def test_a_job_that_gets_further_each_time_is_never_poisoned(database: Database, job: str) -> None:
    assert [die_at(database, tokens) for tokens in range(1, 20)] == [(State.QUEUED, 1)] * 19


def test_three_deaths_at_the_same_place_poison_a_job(database: Database, job: str) -> None:
    found = [die_at(database, 7) for _ in range(3)]
    assert found == [(State.QUEUED, 1), (State.QUEUED, 2), (State.FAILED, 3)]
    assert samples.row(database, job).error["code"] == "poisoned"


def test_an_attempt_that_dies_earlier_is_no_progress(database: Database, job: str) -> None:
    found = [die_at(database, tokens) for tokens in (9, 3, 10, 10, 4)]
    assert [crashes for _, crashes in found] == [1, 2, 1, 2, 3]
    assert found[-1][0] == State.FAILED


def test_what_is_handed_up_is_due_at_once(database: Database, job: str) -> None:
    die_at(database, 0)
    assert claim(database).claim.attempt == 2


def test_a_worker_that_lost_its_lease_hands_nothing_up(database: Database, job: str) -> None:
    stale = claim(database).claim
    samples.alter(database, job, attempt=2)
    with database.transaction() as connection:
        assert lifecycle.surrender(connection, [stale]) == {}
    assert samples.row(database, job).state == State.RUNNING


def test_a_cancel_that_was_asked_for_ends_what_is_handed_up(database: Database, owner: int, job: str) -> None:
    held = claim(database).claim
    with database.transaction() as connection:
        lifecycle.request_cancel(connection, job, owner)
        assert lifecycle.surrender(connection, [held]) == {State.CANCELLED: 1}
