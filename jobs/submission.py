"""The only module that makes the rows of jobs, each with its first event; `lifecycle` moves them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import (
    ColumnClause,
    Connection,
    Float,
    Interval,
    Select,
    Text,
    and_,
    bindparam,
    column,
    func,
    insert,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql import insert as upsert

from jobs import creates
from jobs.attempts import NewJob
from jobs.creates import Create
from jobs.encoding import encode
from jobs.moves import log_of, table_of
from jobs.records import POSITION_LIMIT, JobRecord, queue_position
from jobs.statements import Statement
from jobs.states import State
from jobs.tables import jobs

_NOW = func.clock_timestamp()  # now() would be the start of the transaction


@dataclass(frozen=True)
class First:
    """A job that nobody can have asked for before."""

    job: NewJob
    create: Create | None = None  # how a repetition will be told
    gone: Callable[[], bool] = lambda: False  # whether nobody waits for the answer any more


def submit(connection: Connection, job: NewJob) -> JobRecord:
    """Write the row and its first event, in one statement; the caller's commit accepts the job."""
    return _accepted(job, connection.execute(_submission(), {"given": _given([First(job)])}).one())


def submit_group(connection: psycopg.Connection, wanted: Sequence[First]) -> list[JobRecord]:
    """As `submit`, of several that came at the same time and with what tells their repetitions."""
    written = {row[0]: row for row in _submission_of_group().rows(connection, given=_given(wanted))}
    return [_accepted(one.job, written[one.job.id]) for one in wanted]


def _given(wanted: Sequence[First]) -> str:
    return encode([_as_given(one) for one in wanted]).decode()


def _as_given(wanted: First) -> dict[str, Any]:
    """A job as `_submission` reads it: JSON within JSON is text, so that any text passes unread."""
    values = {name: getattr(wanted.job, name) for name in _NEW}
    for name in _NEW_JSON:
        if values[name] is not None:
            values[name] = encode(values[name]).decode()
    values["behind"] = wanted.job.behind.total_seconds()
    return values if wanted.create is None else values | creates.given_of(wanted.create)


def _accepted(job: NewJob, row: Sequence[Any]) -> JobRecord:
    _id, created_at, available_at, position = row
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
        queue_position=position,
        available_at=available_at,
    )


@cache
def _submission() -> Select[Any]:
    """The statement of `submit`, built once: it is the busiest of all.

    Jobs of one class in a group have one turn, so nobody else's stand between them: those before are counted
    once for all of them.
    """
    kinds = {name: _kind_given(name) for name in _NEW} | creates.GIVEN
    columns: list[ColumnClause[Any]] = [column(name, kind) for name, kind in kinds.items()]
    table = func.json_to_recordset(bindparam("given", type_=Text).cast(JSON))
    given = select(table.table_valued(*columns).render_derived(with_types=True)).cte("given")
    values = [given.c[name].cast(jobs.c[name].type) for name in _WRITTEN]
    turn = select(_NOW).scalar_subquery() + given.c.behind * literal_column("interval '1 second'", Interval)
    row = (
        insert(jobs)
        .from_select(
            [*_WRITTEN, "state", "turn"],
            select(*values, literal(State.QUEUED, Text), turn),
        )
        .returning(*(jobs.c[name] for name in _RETURNED))
        .cte("moved")
    )
    which = (row.c.queue, row.c.model, row.c.turn)
    first = select(*which, func.min(row.c.seq).label("seq")).group_by(*which).subquery("first")
    before = select(*first.c, queue_position(first).label("position")).subquery("before")
    mates = func.rank().over(partition_by=which[:2], order_by=(row.c.turn, row.c.seq)) - 1
    position = func.least(POSITION_LIMIT, before.c.position + mates).label("queue_position")
    same = and_(*(before.c[one.name] == one for one in which))
    accepted = select(row.c.id, row.c.created_at, row.c.available_at, position).join(before, same)
    return accepted.add_cte(log_of(row, literal(None, Text)), creates.first_of(given))


@cache
def _submission_of_group() -> Statement:
    return Statement(_submission(), "given")


_NEW = [field.name for field in fields(NewJob)]
_WRITTEN = [name for name in _NEW if name != "behind"]  # as they are; the other one makes the turn
_NEW_JSON = [name for name in _NEW if name in jobs.c and isinstance(jobs.c[name].type, JSON)]
_RETURNED = (
    "id",
    "queue",
    "model",
    "turn",
    "seq",
    "created_at",
    "available_at",
    "attempt",
    "state",
    "worker",
)


def _kind_given(name: str) -> Any:
    return Float() if name == "behind" else Text() if name in _NEW_JSON else jobs.c[name].type


def submit_many(connection: Connection, accepted: Sequence[NewJob]) -> int:
    """Write many rows and their first events in one statement; return how many.

    A line of a batch that is there already is left out, so that a batch can be expanded twice.
    """
    if not accepted:
        return 0
    values = {name: (_kind_of(name), [getattr(job, name) for job in accepted]) for name in _NEW}
    given = table_of(values)
    written = [given.c[name] for name in _WRITTEN]
    rows = select(*written, literal(State.QUEUED, Text), _NOW + given.c.behind)
    row = (
        upsert(jobs)
        .from_select([*_WRITTEN, "state", "turn"], rows)
        .on_conflict_do_nothing(index_elements=["batch_id", "line"], index_where=jobs.c.batch_id.is_not(None))
        .returning(jobs.c.id, jobs.c.attempt, jobs.c.state, jobs.c.worker)
        .cte("moved")
    )
    count = select(func.count()).select_from(row).add_cte(log_of(row, literal(None, Text)))
    return int(connection.execute(count).scalar_one())


def _kind_of(name: str) -> Any:
    """The SQL type of a field of NewJob."""
    return Interval() if name == "behind" else jobs.c[name].type
