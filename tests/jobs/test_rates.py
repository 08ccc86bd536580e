"""What is known of a queue's speed, and when its jobs are said to end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text, update

from jobs import lifecycle, predictions
from jobs.attempts import Ending
from jobs.database import Database
from jobs.queue import enqueue
from jobs.queue_tables import predictions as noted
from jobs.queue_tables import rates
from jobs.rates import Rates
from jobs.records import JobRecord
from jobs.tables import jobs
from tests.jobs import samples
from tests.jobs.test_queue import Bells

_NOW = func.clock_timestamp()


@pytest.fixture(autouse=True)
def _every_job_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_NOTED_SECONDS", 0.0)


def submit(database: Database, owner: int, name: str, tokens: int = 100) -> JobRecord:
    return enqueue(database, Bells(), replace(samples.new(owner, name), tokens=tokens))


def end(database: Database, name: str, waited: float, ran: float) -> None:
    """It waited and ran for so many seconds, and ended just now."""
    [job] = samples.claim(database, 1)
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, output={})])
        started = _NOW - timedelta(seconds=ran)
        made = started - timedelta(seconds=waited)
        connection.execute(update(jobs).where(jobs.c.id == name).values(started_at=started, finished_at=_NOW))
        connection.execute(update(noted).where(noted.c.job_id == name).values(made_at=made))


def measure(database: Database, memory: Rates) -> None:
    with database.transaction() as connection:
        memory.measure(connection)


def test_of_a_queue_that_never_ran_nothing_is_said(database: Database, owner: int) -> None:
    assert submit(database, owner, "first").eta is None


def test_a_rate_counts_only_the_time_in_which_anything_ran(database: Database, owner: int) -> None:
    for number in range(2):  # two that ran side by side for 2 s, one after an hour of nothing
        submit(database, owner, f"j{number}", 100)
        end(database, f"j{number}", waited=3600, ran=2)
    measure(database, Rates())
    with database.transaction() as connection:
        rate = connection.execute(select(rates)).one()
    assert rate.tokens_per_second == pytest.approx(100, rel=0.1)
    assert rate.stream_tokens_per_second == pytest.approx(50, rel=0.1)


def test_an_end_is_expected_after_what_is_before_and_the_jobs_own_time(
    database: Database, owner: int
) -> None:
    submit(database, owner, "known")
    end(database, "known", waited=0, ran=1)
    measure(database, Rates())
    for number in range(5):
        submit(database, owner, f"before{number}", 200)
    eta = submit(database, owner, "mine", 100).eta
    assert eta is not None
    assert eta.seconds == pytest.approx(5 * 200 / 100 + 1, rel=0.1)
    assert datetime.now(UTC) < eta.p50 < eta.p90


def test_what_is_said_is_learned_from_how_it_came(database: Database, owner: int) -> None:
    """Half of the jobs took as long as expected, some three times as long: nine of ten end before that."""
    submit(database, owner, "known", 100)
    end(database, "known", waited=0, ran=1)
    memory = Rates()
    measure(database, memory)
    for number in range(40):
        name = f"j{number}"
        submit(database, owner, name, 100)
        end(database, name, waited=0, ran=3 if number % 8 == 0 else 1)
    with database.transaction() as connection:  # whatever the machine made of it
        frozen = {"tokens_per_second": 100.0, "stream_tokens_per_second": 100.0}
        connection.execute(update(rates).values(**frozen))
    measure(database, memory)
    with database.transaction() as connection:
        rate = connection.execute(select(rates)).one()
        assert connection.execute(text("SELECT count(*) FROM predictions")).scalar() == 0
    assert rate.late50 == pytest.approx(1, rel=0.2)
    assert rate.late90 == pytest.approx(3, rel=0.2)


def test_few_ends_change_nothing_of_what_is_said(database: Database, owner: int) -> None:
    submit(database, owner, "known")
    end(database, "known", waited=0, ran=1)
    measure(database, Rates())
    with database.transaction() as connection:
        connection.execute(update(rates).values(late50=1.5, late90=4.5))
    submit(database, owner, "one")
    end(database, "one", waited=0, ran=9)
    measure(database, Rates())  # by a sweeper that has just started
    with database.transaction() as connection:
        rate = connection.execute(select(rates)).one()
    assert (rate.late50, rate.late90) == (1.5, 4.5)
