"""What an owner sees of the queue."""

from datetime import timedelta

from jobs import lifecycle, records
from jobs.attempts import INTERACTIVE, STANDARD, NewJob
from jobs.database import Database


def new(owner: int, name: str, behind: timedelta = STANDARD) -> NewJob:
    return NewJob(name, owner, "response", "generate", "starter", behind, {}, {})


def test_the_queue_position_follows_the_order_of_the_claim(database: Database, owner: int) -> None:
    with database.transaction() as connection:
        for job in (new(owner, "a"), new(owner, "b"), new(owner, "c", INTERACTIVE)):
            lifecycle.submit(connection, job)
        positions = {}
        for name in "abc":
            found = records.find(connection, owner, "response", name)
            assert found is not None
            positions[name] = found.queue_position
    assert positions == {"c": 1, "a": 2, "b": 3}
