"""The only module that makes the rows of jobs, each with its first event; `lifecycle` moves them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import (
    ColumnClause,
    Connection,
    Text,
    bindparam,
    column,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql import insert as upsert

from jobs import creates
from jobs.attempts import NewJob
from jobs.creates import Create
from jobs.encoding import encode
from jobs.moves import log_of, table_of
from jobs.records import JobRecord
from jobs.statements import Statement, driver_of
from jobs.states import State
from jobs.tables import jobs


@dataclass(frozen=True)
class First:
    """A job that nobody can have asked for before."""

    job: NewJob
    create: Create | None = None  # how a repetition will be told
    gone: Callable[[], bool] = lambda: False  # whether nobody waits for the answer any more


def submit(connection: Connection, job: NewJob) -> JobRecord:
    """Write the row and its first event; the caller's commit accepts the job."""
    return submit_group(driver_of(connection), [First(job)])[0]


def submit_group(connection: psycopg.Connection, wanted: Sequence[First]) -> list[JobRecord]:
    """As `submit`, of several that came at the same time and with what tells their repetitions."""
    written = {row[0]: row for row in _submission().rows(connection, given=_given(wanted))}
    return [_accepted(one.job, written[one.job.id]) for one in wanted]


def _given(wanted: Sequence[First]) -> str:
    return encode([_as_given(one) for one in wanted]).decode()


def _as_given(wanted: First) -> dict[str, Any]:
    """A job as `_submission` reads it: JSON within JSON is text, so that any text passes unread."""
    values = {name: getattr(wanted.job, name) for name in _NEW}
    for name in _NEW_JSON:
        if values[name] is not None:
            values[name] = encode(values[name]).decode()
    if wanted.job.deadline is not None:
        values["deadline"] = wanted.job.deadline.isoformat()
    return values if wanted.create is None else values | creates.given_of(wanted.create)


def _accepted(job: NewJob, row: Sequence[Any]) -> JobRecord:
    _id, created_at, available_at = row
    return JobRecord(
        id=job.id,
        kind=job.kind,
        model=job.model,
        state=State.QUEUED,
        attempt=0,
        stored=job.stored,
        request=dict(job.request),
        input=dict(job.input),
        output=None,
        error=None,
        created_at=created_at,
        started_at=None,
        finished_at=None,
        cancel_requested_at=None,
        available_at=available_at,
        deadline=job.deadline,
        priority=job.priority,
    )


@cache
def _submission() -> Statement:
    kinds = {name: _kind_given(name) for name in _NEW} | creates.GIVEN
    columns: list[ColumnClause[Any]] = [column(name, kind) for name, kind in kinds.items()]
    table = func.json_to_recordset(bindparam("given", type_=Text).cast(JSON))
    given = select(table.table_valued(*columns).render_derived(with_types=True)).cte("given")
    values = [given.c[name].cast(jobs.c[name].type) for name in _NEW]
    row = (
        insert(jobs)
        .from_select([*_NEW, "state"], select(*values, literal(State.QUEUED, Text)))
        .returning(*(jobs.c[name] for name in _RETURNED))
        .cte("moved")
    )
    accepted = select(row.c.id, row.c.created_at, row.c.available_at)
    return Statement(accepted.add_cte(log_of(row, literal(None, Text)), creates.first_of(given)), "given")


_NEW = [field.name for field in fields(NewJob)]
_NEW_JSON = [name for name in _NEW if name in jobs.c and isinstance(jobs.c[name].type, JSON)]
_RETURNED = ("id", "created_at", "available_at", "attempt", "state", "worker")


def _kind_given(name: str) -> Any:
    return Text() if name in _NEW_JSON else jobs.c[name].type


def submit_many(connection: Connection, accepted: Sequence[NewJob]) -> int:
    """Write many rows and their first events in one statement; return how many.

    A line of a batch that is there already is left out, so that a batch can be expanded twice.
    """
    if not accepted:
        return 0
    values = {name: (jobs.c[name].type, [getattr(job, name) for job in accepted]) for name in _NEW}
    given = table_of(values)
    rows = select(*(given.c[name] for name in _NEW), literal(State.QUEUED, Text))
    row = (
        upsert(jobs)
        .from_select([*_NEW, "state"], rows)
        .on_conflict_do_nothing(index_elements=["batch_id", "line"], index_where=jobs.c.batch_id.is_not(None))
        .returning(jobs.c.id, jobs.c.attempt, jobs.c.state, jobs.c.worker)
        .cte("moved")
    )
    count = select(func.count()).select_from(row).add_cte(log_of(row, literal(None, Text)))
    return int(connection.execute(count).scalar_one())
