"""What was used with each key, counted when a job ends."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import text

from jobs import keys, lifecycle, submission, usage
from jobs.attempts import Ending
from jobs.database import Database
from jobs.errors import InvalidPrompt, NumericalError, WorkerStopping
from jobs.keys import Identity
from jobs.usage import Spent, Used
from tests.jobs import samples

EVER = (date(2000, 1, 1), date(2100, 1, 1))


@pytest.fixture
def who(database: Database) -> Identity:
    with database.transaction() as connection:
        found = keys.identify(connection, keys.issue(connection, "ann"))
    assert found is not None
    return found


def submit(database: Database, who: Identity, *names: str) -> None:
    with database.transaction() as connection:
        for name in names:
            submission.submit(connection, replace(samples.new(who.owner_id, name), api_key_id=who.key_id))


def used(database: Database) -> list[Used]:
    with database.transaction() as connection:
        return usage.read(connection, *EVER, limit=100)[0]


def output(prompt: int, new: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "output_tokens": new}


def test_every_end_with_a_worker_is_counted_in_the_transaction_of_the_end(
    database: Database, who: Identity
) -> None:
    submit(database, who, "good", "bad", "again", "cancelled")
    claims = {job.claim.job_id: job.claim for job in samples.claim(database)}
    samples.alter(database, *claims, started_at=datetime.now(UTC) - timedelta(seconds=10))
    with database.transaction() as connection:
        lifecycle.request_cancel(connection, "cancelled", who.owner_id)
    endings = [
        Ending(claims["good"], output(5, 7)),
        Ending(claims["bad"], error=InvalidPrompt("no")),
        Ending(claims["again"], error=WorkerStopping("later"), again=True),
        Ending(claims["cancelled"], output(3, 2)),
    ]
    with database.engine.connect() as connection:
        lifecycle.settle(connection, endings)
        connection.rollback()
    assert used(database) == []
    with database.transaction() as connection:
        lifecycle.settle(connection, endings)
    (day,) = used(database)
    assert (day.day, day.owner) == (datetime.now(UTC).date(), "ann")
    assert (day.jobs, day.input_tokens, day.output_tokens) == (3, 8, 9)
    assert 30 <= day.worker_seconds < 35


def test_a_stale_worker_counts_nothing(database: Database, who: Identity) -> None:
    submit(database, who, "a")
    (job,) = samples.claim(database)
    for _ in range(2):
        with database.transaction() as connection:
            lifecycle.settle(connection, [Ending(job.claim, output(1, 1))])
    assert [day.jobs for day in used(database)] == [1]


def test_usage_outlives_the_jobs(database: Database, who: Identity) -> None:
    submit(database, who, "a")
    (job,) = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, output(1, 2))])
        connection.execute(text("DELETE FROM jobs"))
    assert [day.output_tokens for day in used(database)] == [2]


def test_a_job_without_a_key_or_whose_key_is_gone_ends_all_the_same(
    database: Database, who: Identity
) -> None:
    with database.transaction() as connection:
        submission.submit(connection, samples.new(who.owner_id, "nobody's"))
        submission.submit(connection, replace(samples.new(who.owner_id, "gone"), api_key_id=10**9))
    endings = [Ending(job.claim, error=NumericalError("nan")) for job in samples.claim(database)]
    with database.transaction() as connection:
        assert len(lifecycle.settle(connection, endings)) == 2
    assert used(database) == []


def test_each_key_and_day_has_its_sum(database: Database, who: Identity) -> None:
    monday, tuesday = date(2026, 11, 16), date(2026, 11, 17)
    with database.transaction() as connection:
        second = keys.identify(connection, keys.issue(connection, "ann"))
        bob = keys.identify(connection, keys.issue(connection, "bob"))
        assert second
        assert bob
        spent = [
            Spent(key, day, 1, 2, 0.5) for key in (who.key_id, second.key_id, bob.key_id) for day in (monday,)
        ]
        usage.add(connection, [*spent, Spent(who.key_id, tuesday, 1, 1, 1.0), *spent])
        usage.add(connection, spent)
        mine, _ = usage.read(connection, *EVER, limit=10, owner_id=who.owner_id)
        everybody, _ = usage.read(connection, *EVER, limit=10)
        one_day, _ = usage.read(connection, tuesday, tuesday, limit=10)
        some, more = usage.read(connection, *EVER, limit=2)
    assert [(one.day, one.jobs, one.output_tokens) for one in mine] == [
        (tuesday, 1, 1),
        (monday, 3, 6),
        (monday, 3, 6),
    ]
    assert [one.owner for one in everybody] == ["ann", "ann", "ann", "bob"]
    assert [one.day for one in one_day] == [tuesday]
    assert (len(some), more) == (2, True)


def test_workers_that_end_jobs_of_the_same_keys_at_once_do_not_deadlock(
    database: Database, who: Identity
) -> None:
    with database.transaction() as connection:
        others = [keys.identify(connection, keys.issue(connection, f"owner {n}")) for n in range(5)]
    ids = [who.key_id, *(one.key_id for one in others if one)]
    today = date(2026, 11, 20)

    def add(turn: int) -> None:
        spent = [Spent(key, today, 1, 1, 1.0) for key in (ids if turn % 2 else reversed(ids))]
        with database.transaction() as connection:
            usage.add(connection, spent)

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(add, range(60)))
    assert [day.jobs for day in used(database)] == [60] * len(ids)
