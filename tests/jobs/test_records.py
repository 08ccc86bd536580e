"""What an owner sees of the queue."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Connection, func

from jobs import keys, lifecycle, records, submission
from jobs.attempts import Tier
from jobs.database import Database
from jobs.records import JobRecord
from jobs.states import State
from tests.jobs import samples
from tests.jobs.samples import new


def see(connection: Connection, owner: int, name: str) -> JobRecord | None:
    return records.find(connection, owner, "response", name)


def test_the_queue_position_follows_the_order_of_the_claim(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a", "b"])
    samples.submit(database, owner, ["c"], Tier.INTERACTIVE)
    with database.transaction() as connection:
        positions = {name: see(connection, owner, name).queue_position for name in "abc"}
    assert positions == {"c": 1, "a": 2, "b": 3}
    samples.claim(database, limit=1)
    with database.transaction() as connection:
        positions = {name: see(connection, owner, name).queue_position for name in "abc"}
    assert positions == {"c": None, "a": 1, "b": 2}


def test_a_queue_position_counts_only_who_waits_for_the_same(database: Database, owner: int) -> None:
    with database.transaction() as connection:
        submission.submit(connection, new(owner, "training", queue="train"))
        submission.submit(connection, new(owner, "mine"))
        assert see(connection, owner, "mine").queue_position == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda c, owner, name: records.find(c, owner, "response", name) is not None,
        lambda c, owner, name: records.forget(c, owner, "response", name),
        lambda c, owner, name: records.hide(c, owner, "response", name),
        lambda c, owner, name: lifecycle.request_cancel(c, name, owner) is not None,
    ],
    ids=["find", "forget", "hide", "cancel"],
)
def test_a_strangers_job_is_as_missing_as_one_that_never_was(
    database: Database, owner: int, ask: Callable[[Connection, int, str], bool]
) -> None:
    samples.finished(database, owner, "mine", timedelta(0))
    with database.transaction() as connection:
        keys.issue(connection, "stranger")
        assert not ask(connection, owner + 1, "mine")
        assert not ask(connection, owner, "never was")
        assert ask(connection, owner, "mine")


def test_a_page_holds_the_stored_jobs_of_its_owner_newest_first(database: Database, owner: int) -> None:
    for n in range(5):
        samples.finished(database, owner, str(n), timedelta(0), stored=n != 2)
    with database.transaction() as connection:
        first, more = records.page(connection, owner, "response", None, 2)
        rest, end = records.page(connection, owner, "response", first[-1].id, 10)
        oldest, _ = records.page(connection, owner, "response", "0", 10, newest_first=False)
        assert records.page(connection, owner + 1, "response", None, 10) == ([], False)
        assert records.page(connection, owner, "completion", None, 10) == ([], False)
    assert ([job.id for job in first], more) == (["4", "3"], True)
    assert ([job.id for job in rest], end) == (["1", "0"], False)
    assert [job.id for job in oldest] == ["1", "3", "4"]


def test_a_job_that_has_not_ended_cannot_be_forgotten(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["queued", "running"])
    samples.alter(database, "queued", available_at=func.clock_timestamp() + timedelta(hours=1))
    samples.claim(database)
    samples.finished(database, owner, "ended", timedelta(0))
    with database.transaction() as connection:
        gone = {
            name: records.forget(connection, owner, "response", name)
            for name in ("queued", "running", "ended")
        }
        assert samples.events(connection, "ended") == []
    assert gone == {"queued": False, "running": False, "ended": True}
    assert set(samples.states(database)) == {"queued", "running"}


def test_whether_jobs_have_ended_counts_those_that_are_gone(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["queued"])
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        samples.finished(database, owner, state, timedelta(0), state=state)
    asked = ["queued", "succeeded", "failed", "cancelled", "never was"]
    with database.transaction() as connection:
        assert records.ended(connection, asked) == set(asked) - {"queued"}
        assert records.ended(connection, []) == set()


def test_a_hidden_job_leaves_every_list_whatever_its_state(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["queued"])
    with database.transaction() as connection:
        assert records.hide(connection, owner, "response", "queued")
        assert records.page(connection, owner, "response", None, 10) == ([], False)
    assert samples.row(database, "queued").state == State.QUEUED
