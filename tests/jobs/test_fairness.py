"""Whose job is next: between tiers by weight, between owners by tokens, within an owner by priority."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from jobs import claims, lifecycle, submission
from jobs.attempts import WEIGHTS, ClaimedJob, Ending, NewJob, Tier
from jobs.database import Database
from tests.jobs import samples
from tests.jobs.samples import LEASE, MODEL, QUEUE


@pytest.fixture
def owners(database: Database) -> list[int]:
    with database.transaction() as connection:
        made = text("INSERT INTO owners (name) SELECT 'fair ' || n FROM generate_series(1, 8) n RETURNING id")
        return list(connection.execute(made).scalars())


def jobs_of(owner: int, name: str, count: int, tokens: int, tier: Tier = Tier.STANDARD) -> list[NewJob]:
    return [replace(samples.new(owner, f"{name}{n}", tier), tokens=tokens) for n in range(count)]


def queue(database: Database, *jobs: NewJob) -> None:
    with database.transaction() as connection:
        submission.submit_many(connection, jobs)


def take(database: Database, slots: int) -> list[str]:
    return [job.claim.job_id for job in samples.claim(database, slots)]


def jain(shares: list[float]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def test_the_first_job_of_another_owner_does_not_wait_for_ten_thousand(
    database: Database, owners: list[int]
) -> None:
    queue(database, *jobs_of(owners[0], "flood", 10_000, 100))
    for _ in range(3):
        assert len(take(database, 32)) == 32
    queue(database, *jobs_of(owners[1], "small", 3, 100))
    assert take(database, 1) == ["small0"], "it is next"
    assert {"small1", "small2"} <= set(take(database, 4))


def test_eight_owners_with_skewed_loads_get_the_same_tokens(database: Database, owners: list[int]) -> None:
    sizes = [10, 20, 40, 80, 160, 320, 640, 1000]
    cost = {}
    for number, (owner, size) in enumerate(zip(owners, sizes, strict=True)):
        made = jobs_of(owner, f"of {number} ", 40_000 // size, size)
        queue(database, *made)
        cost |= {job.id: (number, job.tokens) for job in made}
    got: Counter[int] = Counter()
    while sum(got.values()) < 100_000:  # a third of it all: everybody still has jobs waiting
        for name in take(database, 8):
            number, tokens = cost[name]
            got[number] += tokens
    assert jain([got[number] for number in range(8)]) > 0.99, got


def test_tiers_share_by_weight_and_the_lowest_is_never_starved(database: Database, owners: list[int]) -> None:
    for tier in Tier:
        queue(database, *jobs_of(owners[tier], f"{tier.name} ", 1000, 50, tier))
    got: Counter[str] = Counter()
    for _ in range(105):
        got.update(name.split()[0] for name in take(database, 10))
    total = sum(WEIGHTS.values())
    for tier in Tier:
        assert got[tier.name] == pytest.approx(1050 * WEIGHTS[tier] / total, abs=10)


def test_somebody_who_waits_on_the_connection_passes_a_backlog_at_once(
    database: Database, owners: list[int]
) -> None:
    queue(database, *jobs_of(owners[0], "background", 100, 50), *jobs_of(owners[0], "b", 100, 50, Tier.BATCH))
    take(database, 20)
    queue(database, *jobs_of(owners[1], "chat", 2, 500, Tier.INTERACTIVE))
    assert "chat0" in take(database, 2)


def test_who_was_away_comes_back_without_credit_and_without_debt(
    database: Database, owners: list[int]
) -> None:
    queue(database, *jobs_of(owners[0], "a", 400, 10))
    for _ in range(10):
        take(database, 20)  # the other one used nothing of this
    queue(database, *jobs_of(owners[1], "b", 400, 10))
    got = Counter(name[0] for _ in range(10) for name in take(database, 10))
    assert got["a"] == pytest.approx(50, abs=20), got  # one claim may be paid back, not ten
    assert got["b"] == 100 - got["a"]


def test_priority_orders_the_jobs_of_one_owner_and_nobody_elses(
    database: Database, owners: list[int]
) -> None:
    mine = [replace(job, priority=n) for n, job in enumerate(jobs_of(owners[0], "m", 3, 10))]
    others = jobs_of(owners[1], "o", 3, 10)
    queue(database, *mine, *others)
    order = [take(database, 1)[0] for _ in range(6)]
    assert [name for name in order if name[0] == "m"] == ["m2", "m1", "m0"]
    assert [name[0] for name in order] == ["m", "o", "m", "o", "m", "o"]


def test_a_job_whose_deadline_has_passed_is_not_begun(database: Database, owners: list[int]) -> None:
    late, job = jobs_of(owners[0], "j", 2, 10)
    queue(database, replace(late, deadline=datetime.now(UTC) - timedelta(seconds=1)), job)
    assert take(database, 10) == ["j1"]


def test_owners_of_fine_tunes_take_turns_whatever_their_models(database: Database, owners: list[int]) -> None:
    with database.transaction() as connection:
        for number in range(4):
            for owner, model in ((owners[0], f"m{number % 2}"), (owners[1], "m1"))[: 2 if number < 2 else 1]:
                job = samples.new(owner, f"{owner} {number}", queue="train")
                submission.submit(connection, replace(job, model=model))
    order = []
    for _ in range(6):
        with database.transaction() as connection:
            taken: ClaimedJob | None = claims.claim_any(connection, "train", "t", LEASE)
            assert taken is not None
            lifecycle.settle(connection, [Ending(taken.claim, output={})])
        order.append(int(taken.claim.job_id.split()[0]) - owners[0])
    assert order == [0, 1, 0, 1, 0, 0]


def test_two_workers_that_claim_at_once_charge_both(database: Database, owners: list[int]) -> None:
    queue(database, *jobs_of(owners[0], "a", 40, 10))
    first, second = (database.engine.connect() for _ in range(2))
    with first, second:  # the second reads the accounts before the first has written them
        with first.begin(), second.begin():
            taken = [claims.claim(one, QUEUE, MODEL, "w", LEASE, 4) for one in (first,)]
        with second.begin():
            taken.append(claims.claim(second, QUEUE, MODEL, "w", LEASE, 4))
    assert sum(map(len, taken)) == 8
    with database.transaction() as connection:
        finish = connection.execute(text("SELECT finish FROM owner_turns")).scalar_one()
    assert finish == 80
