"""The only module that writes `jobs.state`: `submit` makes the row, `_move` makes every move after it."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Integer,
    Interval,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    column,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON

from jobs import states
from jobs.attempts import Claim, ClaimedJob, Ending, NewJob
from jobs.errors import JobError, ModelUnavailable, Poisoned
from jobs.states import POISONED_AFTER, SUSPECT_AFTER, State
from jobs.tables import job_events, jobs, offers

_NOW = func.clock_timestamp()  # now() would be the start of the transaction


def submit(connection: Connection, job: NewJob) -> None:
    """Write the row and its first event; the caller's commit accepts the job."""
    values = {field.name: getattr(job, field.name) for field in fields(job)}
    connection.execute(_submission(), values)


@cache
def _submission() -> Select[Any]:
    """The statement of `submit`, built once: it is the busiest of all."""
    names = [field.name for field in fields(NewJob) if field.name != "behind"]
    given: dict[str, Any] = {name: bindparam(name) for name in names}
    turn = _NOW + bindparam("behind", type_=Interval)
    row = (
        insert(jobs)
        .values(**given, state=State.QUEUED, turn=turn)
        .returning(jobs.c.id, jobs.c.attempt, jobs.c.state, jobs.c.worker)
        .cte("moved")
    )
    return select(row.c.id).add_cte(_log_of(row, literal(None, Text)))


def claim(
    connection: Connection, queue: str, model: str, worker: str, lease: timedelta, limit: int
) -> list[ClaimedJob]:
    """Take up to `limit` due jobs, in the order of their turns, passing over those others are taking.

    A suspect (see `states.SUSPECT_AFTER`) is left to `claim_suspect`.
    """
    return _claim(connection, queue, model, worker, lease, limit, jobs.c.crashes < SUSPECT_AFTER)


def claim_suspect(
    connection: Connection, queue: str, model: str, worker: str, lease: timedelta
) -> list[ClaimedJob]:
    """Take one due job whose workers died; the caller must be idle, so that no neighbour can die with it."""
    return _claim(connection, queue, model, worker, lease, 1, jobs.c.crashes >= SUSPECT_AFTER)


def suspect_waits(connection: Connection, queue: str, model: str) -> bool:
    """Whether a suspect is due: the caller then lets its batch run empty for `claim_suspect`."""
    waiting = select(jobs.c.id).where(_due(queue, model), jobs.c.crashes >= SUSPECT_AFTER).limit(1)
    return connection.execute(waiting).first() is not None


def waiting(connection: Connection, queue: str, models: Sequence[str]) -> list[str]:
    """Those of these models that due jobs wait for, who waited longest first."""
    return list(connection.execute(_waiting(), {"queue": queue, "models": list(models)}).scalars())


@cache
def _waiting() -> Select[Any]:
    names = func.unnest(bindparam("models", type_=ARRAY(Text)))
    given = names.table_valued(column("model", Text), name="given").render_derived()
    due = _due(bindparam("queue", type_=Text), given.c.model)
    first = select(jobs.c.turn).where(due).order_by(jobs.c.turn).limit(1).lateral("first")
    return select(given.c.model).join(first, true()).order_by(first.c.turn)


def heartbeat(
    connection: Connection, claims: Iterable[Claim], lease: timedelta
) -> tuple[set[Claim], set[Claim]]:
    """Renew every claim in one statement; return (lost, unwanted): no longer ours, and to be cancelled."""
    held = list(claims)
    if not held:
        return set(), set()
    locked = _locked(held).cte("locked")
    renewed = connection.execute(
        update(jobs)
        .where(jobs.c.id == locked.c.id)
        .values(lease_until=_NOW + lease)
        .returning(jobs.c.id, jobs.c.attempt, jobs.c.cancel_requested_at)
    ).all()
    kept = {Claim(row.id, row.attempt) for row in renewed}
    cancelled = {Claim(row.id, row.attempt) for row in renewed if row.cancel_requested_at}
    return set(held) - kept, cancelled


def unwanted(connection: Connection, claims: Iterable[Claim]) -> set[Claim]:
    """Which of these claims their clients no longer want."""
    given = _given(list(claims))
    asked = select(jobs.c.id, jobs.c.attempt).join(given, _owned_by(given))
    rows = connection.execute(asked.where(jobs.c.cancel_requested_at.is_not(None)))
    return {Claim(row.id, row.attempt) for row in rows}


def settle(connection: Connection, endings: Sequence[Ending]) -> set[Claim]:
    """End a group of attempts, one statement per way of ending; return the claims that were still ours.

    A cancel that was asked for before this commit wins over every other ending; what was generated is kept.
    """
    groups: dict[State, list[Ending]] = {State.SUCCEEDED: [], State.FAILED: [], State.QUEUED: []}
    for ending in endings:
        target = State.SUCCEEDED if ending.error is None else State.QUEUED if ending.again else State.FAILED
        groups[target].append(ending)
    connection.execute(_locked([ending.claim for ending in endings]))
    settled: set[Claim] = set()
    for target, group in groups.items():
        settled |= _end(connection, target, group, jobs.c.cancel_requested_at.is_(None))
    overruled = [ending for ending in endings if ending.claim not in settled]
    return settled | _end(connection, State.CANCELLED, overruled, jobs.c.cancel_requested_at.is_not(None))


def request_cancel(connection: Connection, job_id: str, owner_id: int) -> State | None:
    """Cancel a queued job at once, flag a running one; return the state it was in, None if there is none."""
    mine = and_(jobs.c.id == job_id, jobs.c.owner_id == owner_id)
    before = connection.execute(select(jobs.c.state).where(mine).with_for_update()).scalar_one_or_none()
    if before == State.QUEUED:
        _move(connection, State.CANCELLED, mine, cancel_requested_at=_NOW)
    elif before == State.RUNNING:
        connection.execute(
            update(jobs)
            .where(mine)
            .values(cancel_requested_at=func.coalesce(jobs.c.cancel_requested_at, _NOW))
        )
    return State(before) if before is not None else None


def recover_lost(connection: Connection, limit: int = 1000) -> dict[State, int]:
    """Take back the jobs whose lease ran out; return how many went where. Harmless if two run at once."""
    expired = (
        select(jobs.c.id)
        .where(jobs.c.state == literal_column("'running'"), jobs.c.lease_until < _NOW)
        .order_by(jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = connection.execute(expired).scalars().all()
    if not ids:
        return {}
    lost, wanted = jobs.c.id.in_(ids), jobs.c.cancel_requested_at.is_(None)
    crashes = jobs.c.crashes + 1
    poison = Poisoned(f"The worker died {POISONED_AFTER} times while it ran this job.")
    moved = {
        State.CANCELLED: _move(connection, State.CANCELLED, lost, ~wanted, crashes=crashes),
        State.FAILED: _move(
            connection,
            State.FAILED,
            lost,
            wanted,
            crashes >= POISONED_AFTER,
            crashes=crashes,
            code=literal(poison.code, Text),
            error=error_object(poison),
        ),
        State.QUEUED: _move(
            connection,
            State.QUEUED,
            lost,
            wanted,
            crashes < POISONED_AFTER,
            crashes=crashes,
            available_at=_NOW,
        ),
    }
    return {state: len(rows) for state, rows in moved.items() if rows}


def fail_unserved(connection: Connection, after: timedelta) -> int:
    """Fail the jobs that have waited for longer than `after` for a model that no worker has any more."""
    error = ModelUnavailable("No worker offers this model any more.")
    return _fail_unserved(connection, error, jobs.c.turn < _NOW - after)


def fail_unloadable(connection: Connection, queue: str, model: str, reason: str) -> int:
    """Fail the jobs that wait for a model which could not be loaded, unless another worker offers it."""
    return _fail_unserved(connection, ModelUnavailable(reason), jobs.c.queue == queue, jobs.c.model == model)


def error_object(error: JobError) -> dict[str, str]:
    """The stored form of an error."""
    return {"code": error.code, "message": str(error)}


def _fail_unserved(connection: Connection, error: ModelUnavailable, *which: ColumnElement[bool]) -> int:
    served = exists().where(offers.c.name == jobs.c.model, offers.c.version_id.is_not(None))
    waiting = jobs.c.state == literal_column("'queued'")
    code = literal(error.code, Text)
    return len(
        _move(connection, State.FAILED, waiting, ~served, *which, code=code, error=error_object(error))
    )


def _due(queue: str | ColumnElement[str], model: str | ColumnElement[str]) -> ColumnElement[bool]:
    return and_(
        jobs.c.state
        == literal_column("'queued'"),  # a bound value would hide the partial index from the plan
        jobs.c.queue == queue,
        jobs.c.model == model,
        jobs.c.available_at <= _NOW,
    )


def _claim(
    connection: Connection,
    queue: str,
    model: str,
    worker: str,
    lease: timedelta,
    limit: int,
    which: ColumnElement[bool],
) -> list[ClaimedJob]:
    due = (  # a CTE: as a plain subquery the planner may run it again and take more than `limit`
        select(jobs.c.id)
        .where(_due(queue, model), which)
        .order_by(jobs.c.turn, jobs.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    rows = _move(
        connection,
        State.RUNNING,
        jobs.c.id == due.c.id,
        returning=(jobs.c.model, jobs.c.input, jobs.c.failures, jobs.c.crashes, jobs.c.turn, jobs.c.seq),
        attempt=jobs.c.attempt + 1,
        worker=worker,
        lease_until=_NOW + lease,
        started_at=_NOW,
    )
    rows.sort(key=lambda row: (row.turn, row.seq))
    return [
        ClaimedJob(
            Claim(row.id, row.attempt), row.model, row.input, row.failures, row.crashes >= SUSPECT_AFTER
        )
        for row in rows
    ]


def _end(
    connection: Connection, target: State, endings: Sequence[Ending], *where: ColumnElement[bool]
) -> set[Claim]:
    if not endings:
        return set()
    given = _given([ending.claim for ending in endings], endings)
    requeued: dict[str, Any] = {}
    if target is State.QUEUED:  # full jitter, so that jobs which failed together do not return together
        delay = given.c.jitter * func.least(60.0, func.power(2.0, jobs.c.failures))
        requeued = {"available_at": _NOW + func.make_interval(0, 0, 0, 0, 0, 0, delay)}
    rows = _move(
        connection,
        target,
        _owned_by(given),
        *where,
        code=given.c.code,
        output=given.c.output,
        error=given.c.error,
        failures=jobs.c.failures + given.c.charged,
        **requeued,
    )
    return {Claim(row.id, row.attempt) for row in rows}


def _given(claims: Sequence[Claim], endings: Sequence[Ending] = ()) -> FromClause:
    """The claims, and what they ended with, as a table to join with `jobs`."""
    errors = [ending.error for ending in endings]
    values = {
        "id": (Text, [claim.job_id for claim in claims]),
        "attempt": (Integer, [claim.attempt for claim in claims]),
        "output": (JSON, [None if e.output is None else dict(e.output) for e in endings]),
        "error": (JSON, [None if e is None else error_object(e) for e in errors]),
        "code": (Text, [None if e is None else e.code for e in errors]),
        "charged": (Integer, [int(e is not None and e.charged) for e in errors]),
        "jitter": (Float, [random.random() if e is not None and e.charged else 0.0 for e in errors]),
    }
    if not endings:
        values = {name: values[name] for name in ("id", "attempt")}
    arrays = [
        bindparam(None, rows, type_=ARRAY(kind(none_as_null=True) if kind is JSON else kind))
        for kind, rows in values.values()
    ]
    columns: list[ColumnClause[Any]] = [column(name, kind) for name, (kind, _) in values.items()]
    return func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def _locked(claims: Sequence[Claim]) -> Select[Any]:
    """Lock the rows of these claims in one order everywhere, or two groups of them could deadlock."""
    given = _given(claims)
    owned = select(jobs.c.id).join(given, _owned_by(given))
    return owned.order_by(jobs.c.id).with_for_update(of=jobs)


def _owned_by(given: FromClause) -> ColumnElement[bool]:
    return and_(jobs.c.id == given.c.id, jobs.c.attempt == given.c.attempt, jobs.c.state == State.RUNNING)


def _move(
    connection: Connection,
    target: State,
    *where: ColumnElement[bool],
    code: ColumnElement[Any] | None = None,
    returning: Sequence[ColumnElement[Any]] = (),
    **values: Any,
) -> list[Row[Any]]:
    """Move every row that `where` names and the table of moves allows, and log each move beside it.

    The rows that moved come back with `returning` beside what the log needs: outputs are large.
    """
    if target is not State.RUNNING:
        values |= {"lease_until": None}
    if target is State.CANCELLED:
        values |= {"error": null()}  # an earlier attempt may have left one
    if target in states.FINAL:
        values |= {"finished_at": _NOW}
    moved = (
        update(jobs)
        .where(jobs.c.state.in_(states.sources(target)), *where)
        .values(state=target, **values)
        .returning(
            *(jobs.c.id, jobs.c.attempt, jobs.c.state, jobs.c.worker, *returning),
            (code if code is not None else literal(None, Text)).label("code"),
        )
        .cte("moved")
    )
    return list(connection.execute(select(moved).add_cte(_log_of(moved, moved.c.code))).all())


def _log_of(moved: FromClause, code: ColumnElement[Any]) -> Any:
    entries = select(moved.c.id, moved.c.attempt, moved.c.state, code, moved.c.worker)
    return (
        insert(job_events)
        .from_select(["job_id", "attempt", "state", "code", "worker"], entries)
        .cte("logged")
    )
