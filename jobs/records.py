"""What a job looks like to its owner: every read names the owner, and none changes a state."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    ScalarSelect,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    null,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.states import FINAL, State
from jobs.tables import jobs

POSITION_LIMIT = 1000
"""Queue positions are exact up to here; beyond it, a job is said to be at least here."""


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
    queue_position: int | None  # 1 is next; None unless queued
    available_at: datetime | None = None  # not before
    paused_at: datetime | None = None
    progress: dict[str, Any] | None = None  # of a fine-tune
    version: str | None = None  # changes with the row; only `polling` says it


def read(connection: Connection, job_id: str) -> JobRecord:
    """The job that this process has just written."""
    return record_of(connection.execute(_reading(), {"job_id": job_id}).one())


def find(connection: Connection, owner_id: int, kind: str, job_id: str) -> JobRecord | None:
    """The job of that id, if it is this owner's and of this kind."""
    row = connection.execute(_finding(), {"owner": owner_id, "kind": kind, "id": job_id}).one_or_none()
    return None if row is None else record_of(row)


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
    return [record_of(row) for row in rows[:limit]], len(rows) > limit


def lines(connection: Connection, batch_id: str, after: int, limit: int) -> list[tuple[int, str, JobRecord]]:
    """Up to `limit` jobs of a batch beyond the line `after`, in order: line, custom_id, job."""
    mine = select(jobs, null().label("queue_position")).where(jobs.c.batch_id == batch_id)
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


@cache
def reading() -> Select[Any]:
    """The query of records, in the order of their fields."""
    position = case((jobs.c.state == State.QUEUED, queue_position(jobs))).label("queue_position")
    return select(*(position if name == "queue_position" else jobs.c[name] for name in FIELDS))


def queue_position(row: FromClause) -> ScalarSelect[int]:
    """One more than the jobs that are before this one, which must be queued and need not be visible yet."""
    ahead = jobs.alias("ahead")
    before = (
        select(ahead.c.id)
        .where(
            ahead.c.state == literal_column("'queued'"),  # a bound value would hide the partial index
            ahead.c.queue == row.c.queue,
            ahead.c.model == row.c.model,
            tuple_(ahead.c.turn, ahead.c.seq) < tuple_(row.c.turn, row.c.seq),
        )
        .limit(POSITION_LIMIT - 1)
        .correlate(row)
        .lateral()
    )
    return select(func.count() + 1).select_from(before).scalar_subquery()


def record_of(row: Row[Any]) -> JobRecord:
    """The record in a row that names every field of it."""
    return JobRecord(**{name: getattr(row, name) for name in FIELDS} | {"state": State(row.state)})


FIELDS = tuple(field.name for field in fields(JobRecord) if field.name != "version")
"""What `reading` reads, in this order."""
