"""How workers take jobs: in one statement, in the order of `ordering`, whose accounts it keeps."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnClause,
    Connection,
    Float,
    Integer,
    Select,
    Text,
    TextClause,
    bindparam,
    column,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert

from jobs import lifecycle, ordering
from jobs.attempts import Claim, ClaimedJob
from jobs.ordering import BY_TURN, DUE, QUEUED
from jobs.queue_tables import owner_turns, tier_turns
from jobs.statements import Statement, driver_of
from jobs.states import SUSPECT_AFTER, State
from jobs.tables import jobs


def claim(
    connection: Connection, queue: str, model: str, worker: str, lease: timedelta, slots: int
) -> list[ClaimedJob]:
    """Take the due jobs of a model that fit into `slots` together, but one at least, however wide it is.

    Those that others are taking are passed over. A suspect (see `states.SUSPECT_AFTER`) is left to
    `claim_suspect`. A statement of its own or the last of a transaction: what is locked and does not fit is
    free again with the commit.
    """
    given = {"queue": queue, "line": model, "worker": worker, "lease": lease.total_seconds()}
    # twice what fits, of all owners together: others may take some at the same time
    most = ordering.readable(2 * slots // _owners.get((queue, model), 1) + 4)
    rows = _fair(most).rows(driver_of(connection), **given, slots=slots)
    if rows:
        _owners[queue, model] = rows[0][_ROW.index("owners")]
    return _claimed(rows)


def claim_any(connection: Connection, queue: str, worker: str, lease: timedelta) -> ClaimedJob | None:
    """Take one due job of a queue, whatever its model, and a suspect too: the caller runs one at a time."""
    given = {"queue": queue, "line": "", "worker": worker, "lease": lease.total_seconds()}
    found = _claimed(_fair_of_any().rows(driver_of(connection), **given, slots=1))
    return found[0] if found else None


def claim_suspect(
    connection: Connection, queue: str, model: str, worker: str, lease: timedelta
) -> list[ClaimedJob]:
    """Take one due job whose workers died; the caller must be idle, so that no neighbour can die with it."""
    given = {"queue": queue, "line": model, "worker": worker, "lease": lease.total_seconds()}
    return _claimed(_of_suspects().rows(driver_of(connection), **given))


def suspect_waits(connection: Connection, queue: str, model: str) -> bool:
    """Whether a suspect is due: the caller then lets its batch run empty for `claim_suspect`."""
    return connection.execute(_SUSPECT_WAITS, {"queue": queue, "line": model}).first() is not None


def waiting(connection: Connection, queue: str, models: Collection[str]) -> list[str]:
    """Those of these models that due jobs wait for, who waited longest first.

    The cost grows with the models and owners that have jobs, and not with these: hundreds may rest.
    """
    wanted = connection.execute(_WAITING, {"queue": queue}).scalars()
    return [model for model in wanted if model in models]


_owners: dict[tuple[str, str], int] = {}  # how many waited the last time: the more, the less is read of each
_SEVERAL = 16  # jobs of an owner, in a queue whose jobs are taken one by one
_TRUSTED = f"crashes < {SUSPECT_AFTER}"
_SUSPECTED = f"{QUEUED} AND crashes >= {SUSPECT_AFTER} AND queue = :queue AND model = :line AND {DUE}"
_SUSPECT_WAITS = text(f"SELECT 1 FROM jobs WHERE {_SUSPECTED} LIMIT 1")
_ONE_MODEL = "SELECT 0, CAST(:queue AS text), CAST(:line AS text)"
_ONE_QUEUE = "SELECT 0, CAST(:queue AS text)"
_MODELS = f"""
    SELECT 1, queue, min(model) FROM jobs WHERE {QUEUED} AND queue = :queue GROUP BY queue
    UNION ALL
    SELECT lines.n + 1, lines.queue, next.model FROM lines CROSS JOIN LATERAL (
        SELECT model FROM jobs WHERE {QUEUED} AND queue = lines.queue AND model > lines.model
        ORDER BY model LIMIT 1
    ) next"""
_WAITING = text(
    f"WITH RECURSIVE {ordering.in_order(ordering.of_models(_MODELS), 1, DUE)}"
    " SELECT jobs.model FROM heads JOIN jobs USING (id) GROUP BY jobs.model ORDER BY min(jobs.created_at)"
)


def _due(ranked: str) -> TextClause:
    """Locks up to `:slots` due jobs in the order of their turns."""
    return text(f"""
        WITH RECURSIVE {ranked},
        next AS MATERIALIZED (
            SELECT *, row_number() OVER (ORDER BY {BY_TURN}) AS place FROM sure
        )
        SELECT jobs.id, jobs.width, next.tier, next.owner_id, next.tokens, next.place,
            next.tier_tag, next.owner_tag, next.weight, (SELECT count(*) FROM flows) AS owners,
            next.place < (SELECT count(*) FROM next)
                OR EXISTS (SELECT FROM cut) AS followed
        FROM jobs JOIN next ON next.id = jobs.id
        WHERE jobs.{QUEUED}
        ORDER BY next.place LIMIT :slots FOR UPDATE OF jobs SKIP LOCKED
    """)


_DUE_COLUMNS: tuple[ColumnClause[Any], ...] = (
    *(column("id", Text), column("width", Integer), column("tier", Integer), column("owner_id", Integer)),
    *(column("tokens", Integer), column("place", Integer), column("tier_tag", Float)),
    *(column("owner_tag", Float), column("weight", Float), column("owners", Integer), column("followed")),
)


@cache
def _fair(most: int) -> Statement:
    flows = ordering.of_models(_ONE_MODEL)
    return _taking(_due(ordering.in_order(flows, most, f"{DUE} AND {_TRUSTED}")))


@cache
def _fair_of_any() -> Statement:
    flows = ordering.of_queues(_ONE_QUEUE)
    return _taking(_due(ordering.in_order(flows, _SEVERAL, DUE, same="TRUE")))


def _taking(locks: TextClause) -> Statement:
    due = locks.columns(*_DUE_COLUMNS).cte("due").prefix_with("MATERIALIZED", dialect="postgresql")
    filled = func.sum(due.c.width).over(order_by=due.c.place)
    line = select(due, filled.label("filled")).cte("line")
    slots = bindparam("slots", type_=Integer)
    fits = or_(line.c.filled <= slots, line.c.filled == line.c.width)  # what fits, and the first
    taken = select(line).where(fits).cte("taken")
    moved = _to_running(jobs.c.id == taken.c.id, returning=(taken.c.place, taken.c.owners, taken.c.followed))
    statement = moved.add_cte(_owners_accounts(taken), _tiers_accounts(taken))
    return Statement(statement, "queue", "line", "worker", "lease", "slots")


_SUSPECT_COLUMNS: tuple[ColumnClause[Any], ...] = (
    *(column("id", Text), column("place", Integer), column("owners", Integer), column("followed")),
)


@cache
def _of_suspects() -> Statement:
    found = text(
        f"SELECT id, 0 AS place, 1 AS owners, false AS followed FROM jobs WHERE {_SUSPECTED}"
        " ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED"
    )
    due = found.columns(*_SUSPECT_COLUMNS).cte("due").prefix_with("MATERIALIZED", dialect="postgresql")
    moved = _to_running(jobs.c.id == due.c.id, returning=(due.c.place, due.c.owners, due.c.followed))
    return Statement(moved, "queue", "line", "worker", "lease")


def _to_running(which: Any, returning: Sequence[Any]) -> Select[Any]:
    seconds = bindparam("lease", type_=Float)
    return lifecycle.moving(
        State.RUNNING,
        which,
        returning=(
            *(jobs.c.model, jobs.c.input, jobs.c.failures, jobs.c.crashes, jobs.c.width),
            *returning,
        ),
        attempt=jobs.c.attempt + 1,
        worker=bindparam("worker", type_=Text),
        lease_until=func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
        started_at=func.clock_timestamp(),
    )


def _owners_accounts(taken: CTE) -> CTE:
    """Each owner's time moves by the tokens that were taken; in one order, or two claims could deadlock."""
    which = (*_line(), taken.c.tier, taken.c.owner_id)
    first = func.min(taken.c.owner_tag)
    rows = select(*which, first, first + func.sum(taken.c.tokens))
    rows = rows.group_by(taken.c.tier, taken.c.owner_id).order_by(taken.c.tier, taken.c.owner_id)
    written = insert(owner_turns).from_select([column.name for column in owner_turns.c], rows)
    added: CTE = _added_up(written, owner_turns, ["queue", "line", "tier", "owner_id"]).cte("owners_accounts")
    return added


def _tiers_accounts(taken: CTE) -> CTE:
    first, weight = func.min(taken.c.tier_tag), func.min(taken.c.weight)
    rows = select(*_line(), taken.c.tier, first, first + func.sum(taken.c.tokens) / weight)
    rows = rows.add_columns(func.min(taken.c.owner_tag)).group_by(taken.c.tier).order_by(taken.c.tier)
    written = insert(tier_turns).from_select([column.name for column in tier_turns.c], rows)
    latest = func.greatest(tier_turns.c.owners_start, written.excluded.owners_start)
    added: CTE = _added_up(written, tier_turns, ["queue", "line", "tier"], owners_start=latest).cte(
        "tiers_accounts"
    )
    return added


def _added_up(written: Any, table: Any, key: list[str], **more: Any) -> Any:
    """On top of what another claim wrote meanwhile."""
    new = written.excluded
    return written.on_conflict_do_update(
        index_elements=key,
        set_={
            "start": func.greatest(table.c.start, new.start),
            "finish": func.greatest(table.c.finish, new.start) + new.finish - new.start,
            **more,
        },
    )


def _line() -> tuple[Any, Any]:
    return bindparam("queue", type_=Text), bindparam("line", type_=Text)


_ROW = (
    *("id", "attempt", "state", "worker", "model", "input", "failures", "crashes", "width"),
    *("place", "owners", "followed", "kind", "owner_id", "batch_id", "code"),
)


def _claimed(rows: Sequence[tuple[Any, ...]]) -> list[ClaimedJob]:
    named = sorted((dict(zip(_ROW, row, strict=True)) for row in rows), key=lambda row: row["place"])
    return [
        ClaimedJob(
            claim=Claim(row["id"], row["attempt"]),
            model=row["model"],
            input=row["input"],
            failures=row["failures"],
            suspect=row["crashes"] >= SUSPECT_AFTER,
            batch_id=row["batch_id"],
            width=row["width"],
            followed=row["followed"],
        )
        for row in named
    ]
