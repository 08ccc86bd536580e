"""Jobs to test with, and what the database says of them."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from jobs import claims, lifecycle, submission
from jobs.attempts import ClaimedJob, NewJob, Tier
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.states import State
from jobs.tables import job_events, jobs, offers

LEASE = timedelta(seconds=30)
QUEUE, MODEL = "generate", "starter"


def new(
    owner: int,
    name: str,
    tier: Tier = Tier.STANDARD,
    input: Mapping[str, Any] | None = None,
    queue: str = QUEUE,
    stored: bool = True,
) -> NewJob:
    """A job of that id."""
    return NewJob(name, owner, "response", queue, MODEL, tier, {}, input or {}, stored)


def submit(database: Database, owner: int, names: Iterable[str], tier: Tier = Tier.STANDARD) -> None:
    """Accept a job of each name, in one transaction."""
    with database.transaction() as connection:
        for name in names:
            submission.submit(connection, new(owner, name, tier))


def claim(database: Database, limit: int = 1000, worker: str = "w") -> list[ClaimedJob]:
    """Claim as a worker does."""
    with database.transaction() as connection:
        return claims.claim(connection, QUEUE, MODEL, worker, LEASE, limit)


def row(database: Database, name: str) -> Row[Any]:
    """A job as it stands in the table."""
    with database.transaction() as connection:
        return connection.execute(select(jobs).where(jobs.c.id == name)).one()


def states(database: Database) -> dict[str, State]:
    """The state of every job."""
    with database.transaction() as connection:
        return {name: State(state) for name, state in connection.execute(select(jobs.c.id, jobs.c.state))}


def events(connection: Connection, name: str) -> list[tuple[str, int, str | None]]:
    """The moves of a job in order: state, attempt, code of the error."""
    query = select(job_events.c.state, job_events.c.attempt, job_events.c.code)
    return [
        tuple(found) for found in connection.execute(query.where(job_events.c.job_id == name).order_by("id"))
    ]


def alter(database: Database, *names: str, **values: Any) -> None:
    """Change columns behind everybody's back, as the passing of time does."""
    with database.transaction() as connection:
        connection.execute(update(jobs).where(jobs.c.id.in_(names)).values(**values))


def finished(database: Database, owner: int, name: str, age: timedelta, **values: Any) -> None:
    """Write a job that ended `age` ago."""
    lived = {"state": State.SUCCEEDED, "stored": True, "output": {"text": name}} | values
    fixed = {
        "owner_id": owner,
        "kind": "response",
        "queue": QUEUE,
        "model": MODEL,
        "request": {},
        "input": {},
    }
    with database.transaction() as connection:
        now = lifecycle._NOW
        connection.execute(insert(jobs).values(id=name, finished_at=now - age, **fixed, **lived))
        connection.execute(insert(job_events).values(job_id=name, attempt=1, state=lived["state"]))


def version(name: str = MODEL, digest: str = "d1", **changes: Any) -> ModelVersion:
    """A model version as a worker would offer it."""
    known = {"quantization": "int8", "parameters": 6_000_000, "context": 512, "vocab_size": 4096}
    rest = {"eos_token_id": 0, "tokenizer": "a" * 64, "chat_template": None, "slots": 32}
    return ModelVersion(name=name, digest=digest, **(known | rest | changes))


def events_at(database: Database, name: str) -> list[datetime]:
    """When a job moved."""
    query = select(job_events.c.at).where(job_events.c.job_id == name).order_by(job_events.c.id)
    with database.transaction() as connection:
        return list(connection.execute(query).scalars())


def is_null(database: Database, name: str) -> dict[str, bool]:
    """Which of a job's answers are SQL NULL."""
    query = select(jobs.c.output.is_(None).label("output"), jobs.c.error.is_(None).label("error"))
    with database.transaction() as connection:
        return dict(connection.execute(query.where(jobs.c.id == name)).one()._mapping)


def make_silent(connection: Connection, worker: str, since: timedelta) -> None:
    """Let a worker's last word on its offers be that long ago."""
    quiet = update(offers).where(offers.c.worker == worker)
    connection.execute(quiet.values(seen_at=offers.c.seen_at - since))
