"""The only module that moves `jobs.state`, in `_move`; `submission` makes the rows."""

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, timedelta
from functools import cache
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
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
    case,
    exists,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSON

from jobs import outbox, states, usage
from jobs.attempts import Claim, Ending
from jobs.errors import DeadlineExceeded, JobError, ModelUnavailable, Poisoned
from jobs.moves import log_of, table_of
from jobs.outbox import Event
from jobs.queue_tables import backlog
from jobs.states import POISONED_AFTER, State
from jobs.tables import jobs, offers
from jobs.usage import Spent

_NOW = func.clock_timestamp()  # now() would be the start of the transaction
_JSON = JSON(none_as_null=True)
_NOTHING: Mapping[Claim, int] = MappingProxyType({})


def forgive(connection: Connection, claim: Claim) -> None:
    """A job has come further than before: the deaths and failures on the way there count no more."""
    mine = (jobs.c.id == claim.job_id, jobs.c.attempt == claim.attempt, jobs.c.state == State.RUNNING)
    connection.execute(update(jobs).where(*mine).values(crashes=0, failures=0))


def state_of(connection: Connection, job_id: str) -> State:
    """Where a job stands, as this transaction left it."""
    return State(connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one())


def heartbeat(
    connection: Connection,
    claims: Iterable[Claim],
    lease: timedelta,
    reached: Mapping[Claim, int] = _NOTHING,
) -> tuple[set[Claim], set[Claim]]:
    """Renew every claim in one statement; return (lost, unwanted): no longer ours, and to be cancelled.

    `reached`: how many tokens each has by now; of its attempts a job keeps the most.
    """
    held = list(claims)
    if not held:
        return set(), set()
    locked = _locked(held, reached).cte("locked")
    renewed = connection.execute(
        update(jobs)
        .where(jobs.c.id == locked.c.id)
        .values(lease_until=_NOW + lease, reached=func.greatest(jobs.c.reached, locked.c.reached))
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

    What the jobs that ended have used is counted in the same transaction.

    A cancel that was asked for before this commit wins over every other ending; what was generated is kept.
    """
    groups: dict[State, list[Ending]] = {State.SUCCEEDED: [], State.FAILED: [], State.QUEUED: []}
    for ending in endings:
        target = State.SUCCEEDED if ending.error is None else State.QUEUED if ending.again else State.FAILED
        groups[target].append(ending)
    connection.execute(_locked([ending.claim for ending in endings]))
    settled: dict[Claim, Row[Any]] = {}
    for target, group in groups.items():
        settled |= _end(connection, target, group, jobs.c.cancel_requested_at.is_(None))
    overruled = [ending for ending in endings if ending.claim not in settled]
    settled |= _end(connection, State.CANCELLED, overruled, jobs.c.cancel_requested_at.is_not(None))
    usage.add(connection, _spent(endings, settled))
    return set(settled)


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


def cancel_lines(connection: Connection, batch_id: str, limit: int) -> tuple[int, list[str]]:
    """Cancel up to `limit` queued lines of a batch at once, flag its running ones.

    Returns how many were cancelled, and the ids of those that were flagged just now.
    """
    mine = jobs.c.batch_id == batch_id
    queued = (
        select(jobs.c.id)
        .where(mine, jobs.c.state == State.QUEUED)
        .limit(limit)
        .with_for_update(skip_locked=True)  # whoever claims it meanwhile has it running, and is flagged
        .cte("queued")
    )
    moved = _move(connection, State.CANCELLED, jobs.c.id == queued.c.id, cancel_requested_at=_NOW)
    running = (
        select(jobs.c.id)
        .where(mine, jobs.c.state == State.RUNNING, jobs.c.cancel_requested_at.is_(None))
        .order_by(jobs.c.id)  # as everywhere, or this and a heartbeat could deadlock
        .with_for_update()
        .cte("running")
    )
    flag = update(jobs).where(jobs.c.id == running.c.id).values(cancel_requested_at=_NOW)
    return len(moved), list(connection.execute(flag.returning(jobs.c.id)).scalars())


def recover_lost(connection: Connection, limit: int = 1000) -> dict[State, int]:
    """Take back the jobs whose lease ran out; return how many went where. Harmless if two run at once."""
    expired = (
        select(jobs.c.id)
        .where(jobs.c.state == literal_column("'running'"), jobs.c.lease_until < _NOW)
        .order_by(jobs.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return _count_deaths(connection, connection.execute(expired).scalars().all())


def surrender(connection: Connection, claims: Iterable[Claim]) -> dict[State, int]:
    """Take back what a worker holds that is about to die, and knows it: as if its leases had run out now."""
    return _count_deaths(connection, connection.execute(_locked(list(claims))).scalars().all())


def fail_queued(connection: Connection, job_id: str, error: JobError) -> int:
    """Fail a job before any work; returns 1, or 0 if it is not queued."""
    code = literal(error.code, Text)
    here = (jobs.c.id == job_id, jobs.c.state == State.QUEUED)
    return len(_move(connection, State.FAILED, *here, code=code, error=error_object(error)))


def fail_unserved(connection: Connection, queue: str, after: timedelta) -> int:
    """Fail jobs of a queue that waited longer than `after` for a model that no worker has any more."""
    error = ModelUnavailable("No worker offers this model any more.")
    unserved = connection.execute(_unserved(), {"queue": queue, "before": after}).scalars().all()
    old = (jobs.c.queue == queue, jobs.c.created_at < _NOW - after)
    return sum(_fail_unserved(connection, error, *old, jobs.c.model == model) for model in unserved)


def fail_unloadable(connection: Connection, queue: str, model: str, reason: str) -> int:
    """Fail jobs that wait for a model which could not be loaded, unless another worker offers it."""
    return _fail_unserved(connection, ModelUnavailable(reason), jobs.c.queue == queue, jobs.c.model == model)


@cache
def _unserved() -> Select[Any]:
    """The models that queued jobs wait for and nobody offers: from one in the index to the next.

    Left out are those of which no job had waited for so long when they were counted: there may be a million.
    """
    asked = bindparam("queue", type_=Text)
    queued = and_(jobs.c.state == literal_column("'queued'"), jobs.c.queue == asked)
    least = func.min(jobs.c.model).label("model")
    named = select(least).where(queued).cte("named", recursive=True)
    following = select(least).where(queued, jobs.c.model > named.c.model).scalar_subquery()
    named = named.union_all(select(following).where(named.c.model.is_not(None)))
    served = exists().where(offers.c.name == named.c.model, offers.c.version_id.is_not(None))
    counted = (backlog.c.queue == asked, backlog.c.model == named.c.model)
    oldest = select(func.min(backlog.c.oldest)).where(*counted).scalar_subquery()
    waits = func.coalesce(oldest < _NOW - bindparam("before", type_=Interval), true())
    return select(named.c.model).where(named.c.model.is_not(None), ~served, waits)


def fail_overdue(connection: Connection, limit: int = 1000) -> list[str]:
    """Fail up to `limit` jobs whose deadline passed while they waited, before any work; return their ids."""
    overdue = and_(jobs.c.state == literal_column("'queued'"), jobs.c.deadline <= _NOW)
    some = select(jobs.c.id).where(overdue).order_by(jobs.c.deadline).limit(limit)
    ids = list(connection.execute(some.with_for_update(skip_locked=True)).scalars())
    if not ids:
        return []
    error = DeadlineExceeded(
        "The deadline passed before a worker could begin. Give it more time, or ask again."
    )
    code, which = literal(error.code, Text), jobs.c.id.in_(ids)
    return [row.id for row in _move(connection, State.FAILED, which, code=code, error=error_object(error))]


def error_object(error: JobError) -> dict[str, str]:
    """The stored form of an error."""
    return {"code": error.code, "message": str(error)}


def _count_deaths(connection: Connection, ids: Sequence[str]) -> dict[State, int]:
    """Move jobs on whose worker died, locked by this transaction; return how many went where.

    A job that got further than ever since the last death is charged with this one alone.
    """
    if not ids:
        return {}
    lost, wanted = jobs.c.id.in_(ids), jobs.c.cancel_requested_at.is_(None)
    crashes = case((jobs.c.reached > jobs.c.reached_at_death, 1), else_=jobs.c.crashes + 1)
    counted: dict[str, Any] = {"crashes": crashes, "reached_at_death": jobs.c.reached}
    poison = Poisoned(f"The worker died {POISONED_AFTER} times while it ran this job.")
    failed: dict[str, Any] = {"code": literal(poison.code, Text), "error": error_object(poison)}
    poisoned = crashes >= POISONED_AFTER
    moved = {
        State.CANCELLED: _move(connection, State.CANCELLED, lost, ~wanted, **counted),
        State.FAILED: _move(connection, State.FAILED, lost, wanted, poisoned, **counted, **failed),
        State.QUEUED: _move(connection, State.QUEUED, lost, wanted, ~poisoned, **counted, available_at=_NOW),
    }
    return {state: len(rows) for state, rows in moved.items() if rows}


def _fail_unserved(
    connection: Connection, error: ModelUnavailable, *which: ColumnElement[bool], limit: int = 1000
) -> int:
    """At most `limit`, so that no statement lasts long: callers ask again and again."""
    served = exists().where(offers.c.name == jobs.c.model, offers.c.version_id.is_not(None))
    waiting = and_(jobs.c.state == literal_column("'queued'"), ~served, *which)
    some = select(jobs.c.id).where(waiting).limit(limit)
    ids = connection.execute(some.with_for_update(skip_locked=True)).scalars().all()
    if not ids:
        return 0
    code = literal(error.code, Text)
    here = (jobs.c.id.in_(ids), waiting)
    return len(_move(connection, State.FAILED, *here, code=code, error=error_object(error)))


def _end(
    connection: Connection, target: State, endings: Sequence[Ending], *where: ColumnElement[bool]
) -> dict[Claim, Row[Any]]:
    if not endings:
        return {}
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
        returning=(jobs.c.api_key_id, jobs.c.started_at, jobs.c.finished_at),
        cut_short={ending.claim.job_id for ending in endings if _is_cut_short(ending)},
        **requeued,
    )
    return {Claim(row.id, row.attempt): row for row in rows}


def _is_cut_short(ending: Ending) -> bool:
    sequences = (ending.output or {}).get("sequences") or [{}]
    return ending.error is None and sequences[0].get("finish_reason") == "length"


def _spent(endings: Sequence[Ending], settled: Mapping[Claim, Row[Any]]) -> Iterator[Spent]:
    """What each job that has ended cost whoever asked for it."""
    for ending in endings:
        row, output = settled.get(ending.claim), ending.output or {}
        if row is None or row.finished_at is None or row.api_key_id is None:
            continue
        yield Spent(
            row.api_key_id,
            row.finished_at.astimezone(UTC).date(),
            output.get("prompt_tokens", 0),
            output.get("output_tokens", 0),
            (row.finished_at - row.started_at).total_seconds(),
        )


def _given(
    claims: Sequence[Claim],
    endings: Sequence[Ending] = (),
    reached: Mapping[Claim, int] = _NOTHING,
) -> FromClause:
    """The claims, and how far they are or what they ended with, as a table to join with `jobs`."""
    errors = [ending.error for ending in endings]
    values: dict[str, tuple[Any, Sequence[Any]]] = {
        "id": (Text, [claim.job_id for claim in claims]),
        "attempt": (Integer, [claim.attempt for claim in claims]),
        "output": (_JSON, [None if e.output is None else dict(e.output) for e in endings]),
        "error": (_JSON, [None if e is None else error_object(e) for e in errors]),
        "code": (Text, [None if e is None else e.code for e in errors]),
        "charged": (Integer, [int(e is not None and e.charged) for e in errors]),
        "jitter": (Float, [random.random() if e is not None and e.charged else 0.0 for e in errors]),
    }
    if not endings:
        values = {name: values[name] for name in ("id", "attempt")}
        values["reached"] = (Integer, [reached.get(claim, 0) for claim in claims])
    return table_of(values)


def _locked(claims: Sequence[Claim], reached: Mapping[Claim, int] = _NOTHING) -> Select[Any]:
    """Lock the rows of these claims in one order everywhere, or two groups of them could deadlock."""
    given = _given(claims, reached=reached)
    owned = select(jobs.c.id, given.c.reached).join(given, _owned_by(given))
    return owned.order_by(jobs.c.id).with_for_update(of=jobs)


def _owned_by(given: FromClause) -> ColumnElement[bool]:
    return and_(jobs.c.id == given.c.id, jobs.c.attempt == given.c.attempt, jobs.c.state == State.RUNNING)


def moving(
    target: State,
    *where: ColumnElement[bool],
    code: ColumnElement[Any] | None = None,
    returning: Sequence[ColumnElement[Any]] = (),
    **values: Any,
) -> Select[Any]:
    """The statement that moves every row which `where` names and the table of moves allows, and logs each.

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
        .where(or_(*(jobs.c.state == source for source in sorted(states.sources(target)))), *where)
        .values(state=target, **values)
        .returning(
            *(jobs.c.id, jobs.c.attempt, jobs.c.state, jobs.c.worker, *returning),
            *(jobs.c.kind, jobs.c.owner_id, jobs.c.batch_id),
            (code if code is not None else literal(None, Text)).label("code"),
        )
        .cte("moved")
    )
    return select(moved).add_cte(log_of(moved, moved.c.code))


def _move(
    connection: Connection,
    target: State,
    *where: ColumnElement[bool],
    cut_short: Collection[str] = (),
    **values: Any,
) -> list[Row[Any]]:
    """Move rows as `moving` says, and tell of their ends; `cut_short` are the ids of those whose output
    stopped at its limit.
    """
    rows = list(connection.execute(moving(target, *where, **values)).all())
    if target in states.FINAL:
        outbox.tell(connection, _events(target, rows, cut_short))
    return rows


def _events(target: State, rows: Sequence[Row[Any]], cut_short: Collection[str]) -> Iterator[Event]:
    """What owners may want to hear of these ends; of a line of a batch, nobody wants to."""
    for row in rows:
        ended = (row.kind, target if row.id not in cut_short else "incomplete")
        if row.batch_id is None and ended in outbox.EVENTS:
            yield Event(row.id, outbox.EVENTS[ended], row.owner_id)
