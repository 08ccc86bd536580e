"""How a batch moves, and how its lines become jobs and stop being them."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from jobs import batches, lifecycle, submission
from jobs.attempts import NewJob, Tier
from jobs.batch_states import ENDED, MOVES, Status
from jobs.batches import NewBatch, Results
from jobs.database import Database
from jobs.states import State
from jobs.tables import batches as table
from tests.jobs import samples

NOTHING = Results(None, None, 0, 0, {})


@pytest.fixture
def batch(database: Database, owner: int) -> str:
    """The id of a batch."""
    with database.transaction() as connection:
        new = NewBatch("batch_1", owner, 1, "/v1/responses", "file-1", "24h", {}, None)
        batches.create(connection, new)
    return new.id


def lines(owner: int, batch_id: str, count: int) -> list[NewJob]:
    """Jobs of a batch's first lines."""
    made = [samples.new(owner, f"job {n}", Tier.BATCH, {"n": n}) for n in range(1, count + 1)]
    return [replace(job, batch_id=batch_id, line=n, custom_id=f"c{n}") for n, job in enumerate(made, 1)]


def submit_many(database: Database, accepted: list[NewJob]) -> int:
    with database.transaction() as connection:
        return submission.submit_many(connection, accepted)


def test_many_submitted_at_once_are_as_if_submitted_one_by_one(
    database: Database, owner: int, batch: str
) -> None:
    one, other = lines(owner, batch, 2)
    other = replace(other, webhook={"url": "u", "events": []}, conversation=[{"a": "\0"}], stored=False)
    assert (
        submit_many(database, [replace(one, id="many 1", line=3), replace(other, id="many 2", line=4)]) == 2
    )
    with database.transaction() as connection:
        for job in (one, other):
            submission.submit(connection, job)
    for single, many in (("job 1", "many 1"), ("job 2", "many 2")):
        first, second = (samples.row(database, name)._asdict() for name in (single, many))
        for own in ("id", "seq", "line", "created_at", "available_at"):
            del first[own], second[own]
        assert first == second
        with database.transaction() as connection:
            assert samples.events(connection, many) == [("queued", 0, None)]
    assert [job.claim.job_id for job in samples.claim(database)] == ["many 1", "many 2", "job 1", "job 2"]


def test_a_line_that_is_there_already_is_left_out(database: Database, owner: int, batch: str) -> None:
    assert submit_many(database, lines(owner, batch, 3)) == 3
    again = [replace(job, id=f"again {job.id}") for job in lines(owner, batch, 5)]
    assert submit_many(database, again) == 2
    assert set(samples.states(database)) == {"job 1", "job 2", "job 3", "again job 4", "again job 5"}
    assert submit_many(database, []) == 0


def test_a_claim_says_whose_line_it_is(database: Database, owner: int, batch: str) -> None:
    submit_many(database, lines(owner, batch, 1))
    samples.submit(database, owner, ["alone"])
    assert {job.claim.job_id: job.batch_id for job in samples.claim(database)} == {
        "job 1": batch,
        "alone": None,
    }


def test_cancelled_lines_end_at_once_and_running_ones_are_flagged_once(
    database: Database, owner: int, batch: str
) -> None:
    submit_many(database, lines(owner, batch, 6))
    samples.submit(database, owner, ["alone"], tier=Tier.BATCH)
    [running] = samples.claim(database, limit=1)
    found = []
    for _ in range(3):
        with database.transaction() as connection:
            found.append(lifecycle.cancel_lines(connection, batch, 3))
    assert found == [(3, ["job 1"]), (2, []), (0, [])]
    states = samples.states(database)
    assert (states.pop("alone"), states.pop("job 1")) == (State.QUEUED, State.RUNNING)
    assert set(states.values()) == {State.CANCELLED}
    with database.transaction() as connection:
        assert lifecycle.unwanted(connection, [running.claim]) == {running.claim}
        assert samples.events(connection, "job 6") == [("queued", 0, None), ("cancelled", 0, None)]


def go(database: Database, batch_id: str, target: Status) -> bool:
    """Try one move."""
    with database.transaction() as connection:
        owner_id = connection.execute(select(table.c.owner_id)).scalar_one()
        match target:
            case Status.FAILED:
                return batches.fail(connection, batch_id, [])
            case Status.IN_PROGRESS:
                return batches.start(connection, batch_id)
            case Status.FINALIZING:
                return batches.finish(connection, batch_id)
            case Status.CANCELLING:
                return batches.request_cancel(connection, owner_id, batch_id)
            case _:
                return batches._move(connection, target, batch_id)


@pytest.mark.parametrize("source", Status)
def test_a_batch_moves_as_the_table_says_and_stamps_each_move(
    source: Status, database: Database, batch: str
) -> None:
    for target in set(Status) - {Status.VALIDATING}:
        with database.transaction() as connection:
            connection.execute(update(table).values(status=source, **{f"{target}_at": None}))
        assert go(database, batch, target) == (target in MOVES[source]), target
        with database.transaction() as connection:
            found = batches.read(connection, batch)
        if target in MOVES[source]:
            assert (found.status, getattr(found, f"{target}_at") is not None) == (target, True)
        else:
            assert found.status == source
    assert (source in ENDED) == (not MOVES[source])


@pytest.mark.parametrize(
    ("begun", "target"),
    [
        ({"status": Status.FINALIZING}, Status.COMPLETED),
        ({"status": Status.CANCELLING}, Status.CANCELLED),
        ({"status": Status.FINALIZING, "expired_at": lifecycle._NOW}, Status.EXPIRED),
    ],
)
def test_it_ends_as_it_was_stopped(
    begun: dict[str, Any], target: Status, database: Database, batch: str
) -> None:
    with database.transaction() as connection:
        connection.execute(update(table).values(**begun))
        before = batches.read(connection, batch)
        assert batches.end(connection, before, NOTHING)
        assert batches.read(connection, batch).status == target
        assert not batches.end(connection, before, NOTHING), "a clerk that was late changes nothing"


def test_somebody_else_cannot_cancel_it(database: Database, owner: int, batch: str) -> None:
    with database.transaction() as connection:
        assert not batches.request_cancel(connection, owner + 1, batch)
        assert batches.request_cancel(connection, owner, batch)


def test_it_is_idle_with_its_last_line_and_not_before(database: Database, owner: int, batch: str) -> None:
    def idle() -> bool:
        with database.transaction() as connection:
            return batches.any_idle(connection, [batch, None])

    submit_many(database, lines(owner, batch, 2))
    samples.claim(database, limit=1)
    assert not idle()
    samples.alter(database, "job 1", state=State.SUCCEEDED, lease_until=None)
    assert not idle()
    samples.alter(database, "job 2", state=State.CANCELLED)
    assert idle()
    with database.transaction() as connection:
        assert not batches.any_idle(connection, [None])


def test_only_one_clerk_takes_it(database: Database, batch: str) -> None:
    with database.transaction() as one, database.transaction() as other:
        assert batches.take(one, batch)
        assert batches.take(one, batch)
        assert not batches.take(other, batch)
    with database.transaction() as later:
        assert batches.take(later, batch)
