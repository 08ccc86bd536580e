"""What a job looks like to its owner: every read names the owner, and none changes a state."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from jobs import eta, positions
from jobs.eta import Eta
from jobs.statements import driver_of
from jobs.states import FINAL, State
from jobs.tables import jobs


@dataclass(frozen=True)
class JobRecord:
    """One row, as its owner may see it."""

    id: str
    kind: str
    model: str
    state: State
    attempt: int
    stored: bool
    request: dict[str, Any]
    input: dict[str, Any]
    output: dict[str, Any] | None
    error: dict[str, str] | None
    created_at: datetime
    started_at: datetime | None  # of the last attempt
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    available_at: datetime | None = None  # not before
    paused_at: datetime | None = None
    progress: dict[str, Any] | None = None  # of a fine-tune
    deadline: datetime | None = None  # not begun by then, it fails
    priority: int = 0
    queue_position: int | None = None  # 1 is next; None unless queued
    eta: Eta | None = None  # likewise; None too where nothing is known of its queue's speed
    version: str | None = None  # changes with the row; only `polling` says it


def read(connection: Connection, job_id: str) -> JobRecord:
    """The job that this process has just written."""
    record = record_of(connection.execute(_reading(), {"job_id": job_id}).one())
    return placed(driver_of(connection), [record])[0]


def find(connection: Connection, owner_id: int, kind: str, job_id: str) -> JobRecord | None:
    """The job of that id, if it is this owner's and of this kind."""
    row = connection.execute(_finding(), {"owner": owner_id, "kind": kind, "id": job_id}).one_or_none()
    return None if row is None else placed(driver_of(connection), [record_of(row)])[0]


def placed(connection: psycopg.Connection, records: Sequence[JobRecord]) -> list[JobRecord]:
    """With their places in the queue and when they will have ended, of those that are queued."""
    places = positions.find(connection, [one.id for one in records if one.state is State.QUEUED])
    return [
        replace(one, queue_position=place.position, eta=eta.of(place))
        if (place := places.get(one.id))
        else one
        for one in records
    ]


def conversation(connection: Connection, owner_id: int, job_id: str) -> list[dict[str, Any]] | None:
    """The items that a response reads; None of one that was made before they were kept."""
    mine = and_(jobs.c.id == job_id, jobs.c.owner_id == owner_id)
    found: list[dict[str, Any]] | None = connection.execute(select(jobs.c.conversation).where(mine)).scalar()
    return found


def page(
    connection: Connection,
    owner_id: int,
    kind: str,
    after: str | None,
    limit: int,
    newest_first: bool = True,
    where: Iterable[ColumnElement[bool]] = (),
) -> tuple[list[JobRecord], bool]:
    """Up to `limit` stored jobs that follow the job `after`, and whether there are more."""
    query = reading().where(jobs.c.owner_id == owner_id, jobs.c.kind == kind, jobs.c.stored, *where)
    if after is not None:
        mark = select(jobs.c.seq).where(jobs.c.id == after, jobs.c.owner_id == owner_id).scalar_subquery()
        query = query.where(jobs.c.seq < mark if newest_first else jobs.c.seq > mark)
    order = jobs.c.seq.desc() if newest_first else jobs.c.seq.asc()
    rows = connection.execute(query.order_by(order).limit(limit + 1)).all()
    return placed(driver_of(connection), [record_of(row) for row in rows[:limit]]), len(rows) > limit


def lines(connection: Connection, batch_id: str, after: int, limit: int) -> list[tuple[int, str, JobRecord]]:
    """Up to `limit` jobs of a batch beyond the line `after`, in order: line, custom_id, job."""
    mine = select(jobs).where(jobs.c.batch_id == batch_id)
    rows = connection.execute(mine.where(jobs.c.line > after).order_by(jobs.c.line).limit(limit))
    return [(row.line, row.custom_id, record_of(row)) for row in rows]


def ended(connection: Connection, job_ids: Iterable[str]) -> set[str]:
    """Which of these jobs are in a final state, or gone."""
    asked = set(job_ids)
    return asked - set(connection.execute(_alive(), {"asked": list(asked)}).scalars())


def forget(connection: Connection, owner_id: int, kind: str, job_id: str) -> bool:
    """Delete a finished job with its events; return whether there was one."""
    mine = and_(jobs.c.id == job_id, jobs.c.owner_id == owner_id, jobs.c.kind == kind)
    return connection.execute(delete(jobs).where(mine, jobs.c.state.in_(FINAL))).rowcount > 0


def hide(connection: Connection, owner_id: int, kind: str, job_id: str) -> bool:
    """Take a job out of its owner's sight; the sweeper removes the row once it has ended."""
    mine = and_(jobs.c.id == job_id, jobs.c.owner_id == owner_id, jobs.c.kind == kind)
    return connection.execute(update(jobs).where(mine).values(stored=False)).rowcount > 0


@cache
def _alive() -> Select[Any]:
    """Of an array, which is one parameter: thousands may wait."""
    return select(jobs.c.id).where(
        jobs.c.id == any_(bindparam("asked", type_=ARRAY(Text))), jobs.c.state.not_in(FINAL)
    )


@cache
def _reading() -> Select[Any]:
    return reading().where(jobs.c.id == bindparam("job_id", type_=Text))


@cache
def _finding() -> Select[Any]:
    return reading().where(
        *is_mine(
            bindparam("owner", type_=BigInteger), bindparam("kind", type_=Text), bindparam("id", type_=Text)
        )
    )


def is_mine(
    owner: ColumnElement[Any], kind: ColumnElement[Any], job_id: ColumnElement[Any]
) -> tuple[ColumnElement[bool], ...]:
    """The job of that id, if it is this owner's and of this kind.

    These are compared so that only the id can be looked up in an index: while a young table has no
    statistics, PostgreSQL would else read all jobs of an owner.
    """
    return (
        jobs.c.id == job_id,
        jobs.c.owner_id.is_not_distinct_from(owner),
        jobs.c.kind.is_not_distinct_from(kind),
    )


def reading() -> Select[Any]:
    """The query of records, in the order of their fields."""
    return select(*(jobs.c[name] for name in FIELDS))


def record_of(row: Row[Any]) -> JobRecord:
    """The record in a row that names every field of it."""
    return JobRecord(**{name: getattr(row, name) for name in FIELDS} | {"state": State(row.state)})


_ELSEWHERE = ("queue_position", "eta", "version")  # known by other statements
FIELDS = tuple(field.name for field in fields(JobRecord) if field.name not in _ELSEWHERE)
"""What `reading` reads, in this order."""
