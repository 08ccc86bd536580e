"""What a job looks like to its owner: every read names the owner, and none changes a state."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, delete, func, select, tuple_, update

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


def read(connection: Connection, job_id: str) -> JobRecord:
    """The job that this process has just written."""
    return _record(connection.execute(_read().where(jobs.c.id == job_id)).one())


def find(connection: Connection, owner_id: int, kind: str, job_id: str) -> JobRecord | None:
    """The job of that id, if it is this owner's and of this kind."""
    mine = and_(jobs.c.id == job_id, jobs.c.owner_id == owner_id, jobs.c.kind == kind)
    row = connection.execute(_read().where(mine)).one_or_none()
    return None if row is None else _record(row)


def page(
    connection: Connection, owner_id: int, kind: str, after: str | None, limit: int, newest_first: bool = True
) -> tuple[list[JobRecord], bool]:
    """Up to `limit` stored jobs that follow the job `after`, and whether there are more."""
    query = _read().where(jobs.c.owner_id == owner_id, jobs.c.kind == kind, jobs.c.stored)
    if after is not None:
        mark = select(jobs.c.seq).where(jobs.c.id == after, jobs.c.owner_id == owner_id).scalar_subquery()
        query = query.where(jobs.c.seq < mark if newest_first else jobs.c.seq > mark)
    order = jobs.c.seq.desc() if newest_first else jobs.c.seq.asc()
    rows = connection.execute(query.order_by(order).limit(limit + 1)).all()
    return [_record(row) for row in rows[:limit]], len(rows) > limit


def ended(connection: Connection, job_ids: Iterable[str]) -> set[str]:
    """Which of these jobs are in a final state, or gone."""
    asked = set(job_ids)
    alive = select(jobs.c.id).where(jobs.c.id.in_(asked), jobs.c.state.not_in(FINAL))
    return asked - set(connection.execute(alive).scalars())


def forget(connection: Connection, owner_id: int, kind: str, job_id: str) -> bool:
    """Delete a finished job with its events; return whether there was one."""
    mine = and_(jobs.c.id == job_id, jobs.c.owner_id == owner_id, jobs.c.kind == kind)
    return connection.execute(delete(jobs).where(mine, jobs.c.state.in_(FINAL))).rowcount > 0


def hide(connection: Connection, owner_id: int, kind: str, job_id: str) -> bool:
    """Take a job out of its owner's sight; the sweeper removes the row once it has ended."""
    mine = and_(jobs.c.id == job_id, jobs.c.owner_id == owner_id, jobs.c.kind == kind)
    return connection.execute(update(jobs).where(mine).values(stored=False)).rowcount > 0


@cache
def _read() -> Select[Any]:
    ahead = jobs.alias("ahead")
    before = (
        select(ahead.c.id)
        .where(
            ahead.c.state == State.QUEUED,
            ahead.c.queue == jobs.c.queue,
            ahead.c.model == jobs.c.model,
            tuple_(ahead.c.turn, ahead.c.seq) <= tuple_(jobs.c.turn, jobs.c.seq),
        )
        .limit(POSITION_LIMIT)
        .correlate(jobs)
        .lateral()
    )
    position = select(func.count()).select_from(before).scalar_subquery()
    return select(jobs, case((jobs.c.state == State.QUEUED, position)).label("queue_position"))


def _record(row: Row[Any]) -> JobRecord:
    names = JobRecord.__dataclass_fields__
    return JobRecord(**{name: getattr(row, name) for name in names} | {"state": State(row.state)})
