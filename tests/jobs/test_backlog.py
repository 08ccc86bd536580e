"""The snapshot of what waits says what the table says, and costs nobody anything."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import func, insert

from jobs import backlog, keys, submission
from jobs.attempts import Tier
from jobs.database import Database
from jobs.queue_tables import rates
from jobs.settings import Settings
from jobs.watcher import Watcher
from tests.jobs import samples

HOUR = timedelta(hours=1)


def another(database: Database) -> int:
    """One more owner."""
    with database.transaction() as connection:
        identity = keys.identify(connection, keys.issue(connection, "another"))
    assert identity is not None
    return identity.owner_id


def submit(database: Database, owner: int, name: str, tier: Tier, tokens: int) -> None:
    with database.transaction() as connection:
        submission.submit(connection, replace(samples.new(owner, name, tier), tokens=tokens))


def measure(database: Database) -> bool:
    with database.transaction() as connection:
        return backlog.measure(connection)


def totals(database: Database) -> dict[int, backlog.Total]:
    """By tier."""
    with database.transaction() as connection:
        return {total.tier: total for total in backlog.totals(connection, samples.QUEUE, samples.MODEL)}


def test_it_counts_what_waits_by_tier_and_owner(database: Database, owner: int) -> None:
    submit(database, owner, "a", Tier.STANDARD, 100)
    submit(database, owner, "b", Tier.STANDARD, 50)
    submit(database, owner, "c", Tier.BATCH, 7)
    submit(database, other := another(database), "d", Tier.STANDARD, 1000)
    samples.alter(database, "a", created_at=func.now() - HOUR, deadline=func.now() + HOUR)
    assert measure(database)
    with database.transaction() as connection:
        found = {(one.tier, one.owner_id): one for one in backlog.of(connection, "generate", "starter")}
    assert {name: (one.jobs, one.tokens) for name, one in found.items()} == {
        (Tier.STANDARD, owner): (2, 150),
        (Tier.BATCH, owner): (1, 7),
        (Tier.STANDARD, other): (1, 1000),
    }
    mine = found[Tier.STANDARD, owner]
    assert (mine.first_seq, mine.last_seq) == tuple(samples.row(database, name).seq for name in "ab")
    assert mine.oldest == samples.row(database, "a").created_at
    assert mine.soonest_deadline == samples.row(database, "a").deadline
    standard = totals(database)[Tier.STANDARD]
    assert (standard.owners, standard.jobs, standard.tokens) == (2, 3, 1150)
    assert standard.oldest_seconds == pytest.approx(3600, abs=60)
    assert standard.deadline_seconds == pytest.approx(3600, abs=60)


def test_what_no_longer_waits_is_gone_from_the_next_one(database: Database, owner: int) -> None:
    submit(database, owner, "a", Tier.STANDARD, 100)
    submit(database, owner, "b", Tier.BATCH, 100)
    measure(database)
    samples.alter(database, "a", state="cancelled")
    measure(database)
    assert list(totals(database)) == [Tier.BATCH]


def test_seconds_are_tokens_over_the_measured_rate(database: Database, owner: int) -> None:
    submit(database, owner, "a", Tier.STANDARD, 5000)
    measure(database)
    assert totals(database)[Tier.STANDARD].seconds == 0, "nobody knows how fast that model is"
    with database.transaction() as connection:
        connection.execute(insert(rates).values(**rate(250.0)))
    assert totals(database)[Tier.STANDARD].seconds == 20


def rate(tokens_per_second: float) -> dict[str, object]:
    """A row of `rates`."""
    speed = {"tokens_per_second": tokens_per_second, "stream_tokens_per_second": tokens_per_second / 10}
    late = {"late50": 1.0, "late90": 2.0, "updated_at": func.now()}
    return {"queue": samples.QUEUE, "model": samples.MODEL} | speed | late


def test_two_sweepers_at_once_take_one_snapshot(database: Database, owner: int) -> None:
    submit(database, owner, "a", Tier.STANDARD, 1)
    first = threading.Barrier(2)

    def hold() -> bool:
        with database.transaction() as connection:
            taken = backlog.measure(connection)
            first.wait(timeout=20)
            first.wait(timeout=20)
        return taken

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        first.wait(timeout=20)
        assert not measure(database), "another sweeper is about to"
        first.wait(timeout=20)
        assert held.result(timeout=20)
    assert totals(database)[Tier.STANDARD].jobs == 1
    assert measure(database)


def test_it_is_taken_for_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(backlog.time, "monotonic", lambda: now)
    schedule = backlog.Schedule()
    assert schedule.is_due()
    schedule.took(0.6)
    now = 119.0
    assert not schedule.is_due()
    now = 121.0
    assert schedule.is_due()
    schedule.took(0.0)
    now += 1.9
    assert not schedule.is_due(), "a small queue is not counted all the time either"


def test_the_sweeper_shows_the_last_snapshot(database: Database, owner: int, settings: Settings) -> None:
    submit(database, owner, "a", Tier.STANDARD, 40)
    samples.alter(database, "a", deadline=func.now() + HOUR)
    with database.transaction() as connection:
        connection.execute(insert(rates).values(**rate(10.0)))
    watcher = Watcher(settings.database)
    try:
        watcher.look()
    finally:
        watcher._database.close()

    def shown(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"penstock_{name}", labels)

    standard = {"queue": "generate", "tier": "standard"}
    assert shown("queued_jobs", **standard) == 1
    assert shown("queued_tokens", **standard) == 40
    assert shown("queued_jobs", queue="generate", tier="interactive") == 0
    assert shown("backlog_seconds", queue="generate") == 4
    assert shown("deadline_slack_seconds", queue="generate") == pytest.approx(3600, abs=60)
    assert shown("webhook_outbox") == 0
