"""What a batch is and where it stands: the only module that writes `batches.status`, one UPDATE per move."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    case,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from jobs import outbox
from jobs.batch_states import ENDED, MOVES, Status
from jobs.outbox import Event
from jobs.states import State
from jobs.tables import batch_refusals, batches, files, jobs

WINDOW = timedelta(hours=24)
"""A batch that has not ended by then keeps what it has and expires."""

_NOW = func.clock_timestamp()  # now() would be the start of the transaction
_LOCKS = 5  # salt, apart from other users of advisory locks
_MOST_DUE = 1000  # batches that one look finds


@dataclass(frozen=True)
class NewBatch:
    """What `create` needs to know of a batch."""

    id: str
    owner_id: int
    api_key_id: int
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: Mapping[str, str]
    output_expires_after: int | None  # seconds


@dataclass(frozen=True)
class Batch:
    """One row, with its lines counted."""

    id: str
    owner_id: int
    api_key_id: int
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    model: str | None
    metadata: dict[str, str]
    output_expires_after: int | None  # seconds
    errors: list[dict[str, Any]] | None
    total: int
    completed: int
    failed: int
    usage: dict[str, int] | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expired_at: datetime | None  # while it is finalizing: since when its time is over
    cancelling_at: datetime | None
    cancelled_at: datetime | None


@dataclass(frozen=True)
class Refused:
    """A line whose body the endpoint does not take, with what it would have answered."""

    line: int
    custom_id: str
    status_code: int
    error: Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """What a batch leaves behind."""

    output_file_id: str | None
    error_file_id: str | None
    completed: int
    failed: int
    usage: Mapping[str, int]  # input_tokens, cached_tokens, output_tokens


def create(connection: Connection, batch: NewBatch) -> None:
    """Write the row; the caller's commit accepts the batch."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    connection.execute(insert(batches).values(**values, status=Status.VALIDATING, expires_at=_NOW + WINDOW))


def read(connection: Connection, batch_id: str) -> Batch:
    """The batch of that id, which there is."""
    return _batch(connection.execute(_read().where(batches.c.id == batch_id)).one())


def find(connection: Connection, owner_id: int, batch_id: str) -> Batch | None:
    """The batch of that id, if it is this owner's."""
    mine = and_(batches.c.id == batch_id, batches.c.owner_id == owner_id)
    row = connection.execute(_read().where(mine)).one_or_none()
    return None if row is None else _batch(row)


def page(connection: Connection, owner_id: int, after: str | None, limit: int) -> tuple[list[Batch], bool]:
    """Up to `limit` batches, the newest first, that follow the batch `after`, and whether there are more."""
    query = _read().where(batches.c.owner_id == owner_id)
    if after is not None:
        mark = select(batches.c.seq).where(batches.c.id == after, batches.c.owner_id == owner_id)
        query = query.where(batches.c.seq < mark.scalar_subquery())
    rows = connection.execute(query.order_by(batches.c.seq.desc()).limit(limit + 1)).all()
    return [_batch(row) for row in rows[:limit]], len(rows) > limit


def is_due(connection: Connection) -> bool:
    """Whether some batch can go a step further."""
    return connection.execute(_due().limit(1)).first() is not None


def due(connection: Connection) -> list[tuple[str, Status]]:
    """The batches that can go a step further, who came first first."""
    rows = connection.execute(_due().order_by(batches.c.seq).limit(_MOST_DUE))
    return [(row.id, Status(row.status)) for row in rows]


def is_open() -> ColumnElement[bool]:
    """Whether a batch has not ended."""
    # spelled out, or the plan would not see that the partial index answers
    return batches.c.status.in_([literal_column(f"'{status}'") for status in Status if status not in ENDED])


def any_idle(connection: Connection, batch_ids: Iterable[str | None]) -> bool:
    """Whether one of these batches has no line left that waits or runs; None stands for no batch."""
    asked = [batch_id for batch_id in batch_ids if batch_id is not None]
    if not asked:
        return False
    idle = select(batches.c.id).where(batches.c.id.in_(asked), is_open(), ~_has(_unended()))
    return connection.execute(idle.limit(1)).first() is not None


def take(connection: Connection, batch_id: str) -> bool:
    """Keep other clerks from working on a batch until the end of this transaction; False: one does already.

    This only spares work: what a step writes is fenced by the batch's status.
    """
    key = func.hashtextextended(batch_id, _LOCKS)
    return bool(connection.execute(select(func.pg_try_advisory_xact_lock(key))).scalar_one())


def begin(connection: Connection, batch_id: str, total: int, model: str | None) -> None:
    """Say how many lines there will be, and which model the first of them names."""
    mine = (batches.c.id == batch_id, batches.c.status == Status.VALIDATING)
    connection.execute(update(batches).where(*mine).values(total=total, model=model, has_lines=True))


def expanded_to(connection: Connection, batch_id: str) -> int:
    """The last line that is a job or refused; 0 before the first. Lines are written in order."""
    last_job = select(func.max(jobs.c.line)).where(jobs.c.batch_id == batch_id).scalar_subquery()
    refused = select(func.max(batch_refusals.c.line)).where(batch_refusals.c.batch_id == batch_id)
    both = func.greatest(last_job, refused.scalar_subquery())
    return int(connection.execute(select(func.coalesce(both, 0))).scalar_one())


def hold(connection: Connection, batch_id: str, status: Status) -> bool:
    """Keep a batch where it stands until the end of this transaction; False: it has moved on."""
    mine = select(batches.c.id).where(batches.c.id == batch_id, batches.c.status == status)
    return connection.execute(mine.with_for_update(key_share=True)).first() is not None


def refuse(connection: Connection, batch_id: str, refused: Sequence[Refused]) -> None:
    """Note lines that become no jobs. Harmless if done twice."""
    if refused:
        rows = [{"batch_id": batch_id, **vars(one)} for one in refused]
        connection.execute(upsert(batch_refusals).on_conflict_do_nothing(), rows)


def refusals(connection: Connection, batch_id: str, after: int, limit: int) -> list[Refused]:
    """Up to `limit` refused lines beyond the line `after`, in order."""
    table = batch_refusals.c
    mine = (table.batch_id == batch_id, table.line > after)
    query = select(table.line, table.custom_id, table.status_code, table.error).where(*mine)
    return [Refused(*row) for row in connection.execute(query.order_by(table.line).limit(limit))]


def fail(connection: Connection, batch_id: str, errors: Sequence[Mapping[str, Any]]) -> bool:
    """Its file is no batch: say why, as {code, line, message, param}."""
    return _move(connection, Status.FAILED, batch_id, errors=[dict(error) for error in errors])


def start(connection: Connection, batch_id: str) -> bool:
    """All its lines are jobs."""
    return _move(connection, Status.IN_PROGRESS, batch_id)


def request_cancel(connection: Connection, owner_id: int, batch_id: str) -> bool:
    """The client wants no more of it; False: it is not at work any more, or there is none."""
    return _move(connection, Status.CANCELLING, batch_id, batches.c.owner_id == owner_id)


def finish(connection: Connection, batch_id: str) -> bool:
    """No line is left to end: only its files are to be written."""
    return _move(connection, Status.FINALIZING, batch_id, ~_has(_unended()))


def expire(connection: Connection, batch_id: str) -> bool:
    """Its window has passed: once its lines are stopped, its files are to be written. False: not yet."""
    return _move(connection, Status.FINALIZING, batch_id, batches.c.expires_at <= _NOW, expired_at=_NOW)


def has_unended(connection: Connection, batch_id: str) -> bool:
    """Whether some of its lines wait or run."""
    mine = select(batches.c.id).where(batches.c.id == batch_id, _has(_unended()))
    return connection.execute(mine).first() is not None


def end(connection: Connection, batch: Batch, results: Results) -> bool:
    """Its files are written: the last move."""
    target = Status.COMPLETED if batch.expired_at is None else Status.EXPIRED
    if batch.status is Status.CANCELLING:
        target = Status.CANCELLED
    return _move(
        connection,
        target,
        batch.id,
        output_file_id=results.output_file_id,
        error_file_id=results.error_file_id,
        counts={"completed": results.completed, "failed": results.failed},
        usage=dict(results.usage),
    )


def _move(
    connection: Connection, target: Status, batch_id: str, *where: ColumnElement[bool], **values: Any
) -> bool:
    """Move a batch if the table of moves allows it, and tell of its end."""
    sources = [status for status, moves in MOVES.items() if target in moves]
    stamped = {f"{target}_at": _NOW} | values
    statement = update(batches).where(batches.c.id == batch_id, batches.c.status.in_(sources), *where)
    moved = statement.values(status=target, **stamped).returning(batches.c.owner_id)
    owner_id = connection.execute(moved).scalar_one_or_none()
    if owner_id is not None and target in ENDED:
        outbox.tell(connection, [Event(batch_id, f"batch.{target}", owner_id)])
    return owner_id is not None


def _due() -> Select[Any]:
    table = batches.c
    unread = exists().where(files.c.id == table.input_file_id, files.c.status == "uploaded")
    over = table.expires_at <= _NOW
    unflagged = and_(jobs.c.state == State.RUNNING, jobs.c.cancel_requested_at.is_(None))
    to_stop = or_(_has(jobs.c.state == State.QUEUED), _has(unflagged))
    idle = ~_has(_unended())
    able = case(
        (table.status == Status.VALIDATING, or_(~unread, over)),
        (table.status == Status.IN_PROGRESS, or_(over, idle)),
        else_=or_(to_stop, idle),
    )
    return select(table.id, table.status).where(is_open(), able)


def _unended() -> ColumnElement[bool]:
    return jobs.c.state.in_([State.QUEUED, State.RUNNING])


def _has(which: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(jobs.c.batch_id == batches.c.id, which)


def _read() -> Select[Any]:
    lines = select(func.count()).select_from(jobs).where(jobs.c.batch_id == batches.c.id)
    refused = select(func.count()).select_from(batch_refusals)
    counted = {
        "completed": lines.where(jobs.c.state == State.SUCCEEDED).scalar_subquery(),
        "failed": lines.where(jobs.c.state == State.FAILED).scalar_subquery()
        + refused.where(batch_refusals.c.batch_id == batches.c.id).scalar_subquery(),
    }
    kept = batches.c.counts
    return select(
        batches,
        *(
            case((kept.is_(None), live), else_=kept[name].as_string().cast(Integer)).label(name)
            for name, live in counted.items()
        ),
    )


def _batch(row: Row[Any]) -> Batch:
    names = [field.name for field in fields(Batch)]
    return Batch(**{name: getattr(row, name) for name in names} | {"status": Status(row.status)})
