"""Where a job stands: told in the order in which jobs are then claimed."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from jobs import backlog, positions, submission
from jobs.attempts import NewJob, Tier
from jobs.database import Database
from jobs.positions import EXACT, Place
from jobs.queue_tables import owner_turns, tier_turns
from jobs.statements import driver_of
from jobs.tables import jobs
from tests.jobs import samples


@pytest.fixture
def owners(database: Database) -> list[int]:
    with database.transaction() as connection:
        made = text(
            "INSERT INTO owners (name) SELECT 'place ' || n FROM generate_series(1, 3) n RETURNING id"
        )
        return list(connection.execute(made).scalars())


def places(database: Database, names: list[str]) -> dict[str, Place]:
    with database.transaction() as connection:
        return positions.find(driver_of(connection), names)


def many(owner: int, name: str, count: int, tokens: int, tier: Tier = Tier.STANDARD) -> list[NewJob]:
    return [replace(samples.new(owner, f"{name}{n}", tier), tokens=tokens) for n in range(count)]


def queue(database: Database, *accepted: NewJob) -> None:
    with database.transaction() as connection:
        submission.submit_many(connection, accepted)


@st.composite
def queues(draw: st.DrawFn) -> list[tuple[int, Tier, int, int]]:
    """Owner, tier, priority and tokens of each job."""
    job = st.tuples(st.integers(0, 2), st.sampled_from(Tier), st.integers(0, 1), st.integers(1, 300))
    return draw(st.lists(job, min_size=1, max_size=40))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(asked=queues(), slots=st.lists(st.integers(1, 9), min_size=60, max_size=60), before=st.integers(0, 3))
def test_jobs_are_claimed_in_the_order_of_their_places(
    database: Database,
    owners: list[int],
    asked: list[tuple[int, Tier, int, int]],
    slots: list[int],
    before: int,
) -> None:
    with database.transaction() as connection:
        for table in (jobs, tier_turns, owner_turns):
            connection.execute(delete(table))
    made = [
        replace(samples.new(owners[owner], f"j{n}", tier), priority=priority, tokens=tokens)
        for n, (owner, tier, priority, tokens) in enumerate(asked)
    ]
    queue(database, *made)
    samples.claim(database, before)  # some have had something, which changes the order of the rest
    told = places(database, [job.id for job in made])
    assert sorted(place.position for place in told.values()) == list(range(1, len(told) + 1))
    claimed: list[str] = []
    for count in slots:
        claimed += [job.claim.job_id for job in samples.claim(database, count)]
    assert claimed == sorted(told, key=lambda name: told[name].position)
    ahead = 0
    for name in claimed:
        assert told[name].tokens_ahead == ahead
        ahead += told[name].tokens


def test_a_place_behind_many_small_jobs_of_another_owner_is_exact(
    database: Database, owners: list[int]
) -> None:
    """More of them are before it than a first look reads of one owner."""
    queue(database, *many(owners[0], "small", 990, 1), *many(owners[1], "large", 2, 900))
    found = places(database, ["large0", "large1", "small989"])
    assert (found["large0"].position, found["large1"].position) == (2, 903)
    assert found["small989"].position == 992


def test_beyond_a_thousand_a_place_is_estimated_from_the_last_count(
    database: Database, owners: list[int]
) -> None:
    queue(database, *many(owners[0], "a", 2 * EXACT, 10), *many(owners[1], "b", 3 * EXACT, 10))
    with database.transaction() as connection:
        backlog.measure(connection)
    found = places(database, ["a0", f"a{EXACT - 1}", f"a{EXACT + 500}", f"b{3 * EXACT - 1}"])
    assert found["a0"].position == 1
    assert found[f"a{EXACT - 1}"].position == pytest.approx(2 * EXACT, rel=0.05)
    assert found[f"a{EXACT + 500}"].position == pytest.approx(2 * (EXACT + 500), rel=0.05)
    assert found[f"b{3 * EXACT - 1}"].position == pytest.approx(5 * EXACT, rel=0.05)
    assert found[f"b{3 * EXACT - 1}"].tokens_ahead == pytest.approx(50 * EXACT, rel=0.05)


def test_a_job_that_came_after_the_count_is_said_to_be_behind_all_of_it(
    database: Database, owners: list[int]
) -> None:
    queue(database, *many(owners[0], "a", EXACT + 100, 10))
    found = places(database, [f"a{EXACT + 50}"])
    assert found[f"a{EXACT + 50}"].position >= EXACT, "never said to be less"
    with database.transaction() as connection:
        backlog.measure(connection)
    queue(database, *many(owners[1], "b", EXACT + 200, 10))
    assert places(database, [f"b{EXACT + 150}"])[f"b{EXACT + 150}"].position >= EXACT + 100


def test_a_job_that_is_claimed_while_its_place_is_looked_up_was_the_next(
    database: Database, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.submit(database, owner, ["a"])

    def claimed_meanwhile(connection: object, near: object) -> list[object]:
        samples.claim(database)
        return []

    monkeypatch.setattr(positions, "_exact", claimed_meanwhile)
    assert places(database, ["a"])["a"].position == 1
