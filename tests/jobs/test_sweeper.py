"""What the sweeper repairs, and that it never does so twice."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from jobs import catalog, claims, lifecycle, submission, sweeper
from jobs.attempts import Ending
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, OutOfMemory
from jobs.states import State
from jobs.tables import job_events
from tests.jobs import samples

MONTH = timedelta(days=30)
HOUR = timedelta(hours=1)


class Bells:
    """Notes the rings, and which jobs a worker that comes at once would see."""

    def __init__(self, database: Database | None = None) -> None:
        self.rung: list[str] = []
        self.hinted: list[str] = []
        self.visible: list[dict[str, State]] = []
        self._database = database

    def ring(self, queue: str) -> None:
        self.rung.append(queue)
        if self._database is not None:
            self.visible.append(samples.states(self._database))

    def hint(self, _channel: str, job_ids: list[str]) -> None:
        self.hinted += job_ids


def lose(database: Database, owner: int, *names: str) -> None:
    """Jobs whose worker was killed."""
    samples.submit(database, owner, names)
    samples.claim(database)
    samples.alter(database, *names, lease_until=func.clock_timestamp() - timedelta(seconds=1))


def test_a_lost_job_is_taken_back_and_rung_for_in_the_same_round(database: Database, owner: int) -> None:
    lose(database, owner, "a")
    bells = Bells(database)
    sweeper.sweep(database, bells, MONTH)
    assert bells.rung == ["generate"]
    assert bells.visible == [{"a": State.QUEUED}], "the bell rang before there was anything to claim"
    assert samples.row(database, "a").crashes == 1
    assert [job.claim.attempt for job in samples.claim(database)] == [2]


def test_a_job_whose_lease_holds_is_left_alone(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a"])
    samples.claim(database)
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert (bells.rung, samples.row(database, "a").state) == ([], State.RUNNING)


def test_two_sweepers_at_once_count_a_death_once(database: Database, owner: int) -> None:
    names = [f"{n:03}" for n in range(200)]
    lose(database, owner, *names)
    start = threading.Barrier(3)

    def recover() -> int:
        start.wait(timeout=10)
        with database.transaction() as connection:
            return sum(lifecycle.recover_lost(connection, limit=150).values())

    with ThreadPoolExecutor(3) as pool:
        found = [done.result(timeout=30) for done in [pool.submit(recover) for _ in range(3)]]
    with database.transaction() as connection:
        found.append(sum(lifecycle.recover_lost(connection).values()))
        moves = connection.execute(select(func.count()).select_from(job_events)).scalar_one()
    assert sum(found) == 200
    assert moves == 600, "submitted, claimed, taken back: once each"
    assert {samples.row(database, name).crashes for name in names[::20]} == {1}


def test_a_job_that_kills_its_worker_runs_alone_and_is_given_up_after_three_deaths(
    database: Database, owner: int
) -> None:
    samples.submit(database, owner, ["killer"])
    for death in (1, 2, 3):
        suspect = death == 3
        assert bool(samples.claim(database)) == (not suspect)
        if suspect:
            with database.transaction() as connection:
                assert claims.suspect_waits(connection, samples.QUEUE, samples.MODEL)
                [_] = claims.claim_suspect(connection, samples.QUEUE, samples.MODEL, "w", samples.LEASE)
        samples.alter(database, "killer", lease_until=func.clock_timestamp() - timedelta(seconds=1))
        sweeper.sweep(database, Bells(), MONTH)
    row = samples.row(database, "killer")
    assert (row.state, row.crashes, row.error["code"]) == (State.FAILED, 3, "poisoned")
    with database.transaction() as connection:
        assert samples.events(connection, "killer")[-1] == ("failed", 3, "poisoned")


def test_a_lost_job_that_nobody_wants_is_cancelled(database: Database, owner: int) -> None:
    lose(database, owner, "a")
    with database.transaction() as connection:
        lifecycle.request_cancel(connection, "a", owner)
    sweeper.sweep(database, Bells(), MONTH)
    assert samples.row(database, "a").state == State.CANCELLED


def test_the_bell_rings_for_what_is_due_and_not_for_what_still_waits(database: Database, owner: int) -> None:
    with database.transaction() as connection:
        for name, queue in (("a", "generate"), ("b", "generate"), ("c", "train")):
            submission.submit(connection, samples.new(owner, name, queue=queue))
    samples.alter(database, "c", available_at=func.clock_timestamp() + HOUR)
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert bells.rung == ["generate"], "once for all its jobs"
    samples.alter(database, "c", available_at=func.clock_timestamp())
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert sorted(bells.rung) == ["generate", "train"]


def test_a_due_retry_is_rung_for(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a"])
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, error=OutOfMemory("no room"), again=True)])
    samples.alter(database, "a", available_at=func.clock_timestamp())
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert bells.rung == ["generate"]


def test_a_job_whose_deadline_passed_while_it_waited_fails_before_any_work(
    database: Database, owner: int
) -> None:
    samples.submit(database, owner, ["late", "in time", "patient"])
    now = func.clock_timestamp()
    samples.alter(database, "late", deadline=now - timedelta(seconds=1))
    samples.alter(database, "in time", deadline=now + HOUR)
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert bells.hinted == ["late"], "who waits for it hears at once"
    assert samples.states(database) == {
        "late": State.FAILED,
        "in time": State.QUEUED,
        "patient": State.QUEUED,
    }
    row = samples.row(database, "late")
    assert (row.error["code"], row.attempt, row.started_at) == ("deadline_exceeded", 0, None)
    with database.transaction() as connection:
        assert samples.events(connection, "late")[-1] == ("failed", 0, "deadline_exceeded")


def test_a_job_that_runs_by_its_deadline_goes_on(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["running"])
    samples.claim(database)
    samples.alter(database, "running", deadline=func.clock_timestamp() - HOUR)
    sweeper.sweep(database, Bells(), MONTH)
    assert samples.states(database) == {"running": State.RUNNING}


def test_many_overdue_jobs_fail_in_bounded_transactions_and_one_sweep(
    database: Database, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_ROWS", 3)
    names = [str(n) for n in range(8)]
    samples.submit(database, owner, names)
    samples.alter(database, *names, deadline=func.clock_timestamp())
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert sorted(bells.hinted) == names
    assert set(samples.states(database).values()) == {State.FAILED}


def test_the_models_of_a_worker_that_is_gone_are_withdrawn(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "gone", [samples.version("old")], {})
        samples.make_silent(connection, "gone", catalog.SILENT_AFTER + timedelta(seconds=5))
        catalog.offer(connection, "restarting", [samples.version("new")], {})
        samples.make_silent(connection, "restarting", catalog.SILENT_AFTER - timedelta(seconds=5))
    sweeper.sweep(database, Bells(), MONTH)
    with database.transaction() as connection:
        assert set(catalog.listing(connection)) == {"new"}


def test_lost_jobs_are_recovered_whatever_becomes_of_the_rest(
    database: Database, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> int:
        raise DatabaseUnavailable("canceling statement due to statement timeout")

    monkeypatch.setattr(sweeper.lifecycle, "fail_unserved", stumble)
    lose(database, owner, "lost")
    with pytest.raises(DatabaseUnavailable):
        sweeper.sweep(database, Bells(), MONTH)
    assert samples.states(database) == {"lost": State.QUEUED}
