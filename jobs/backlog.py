"""What waits, by queue, model, tier and owner: a snapshot that the sweeper takes and everybody else reads.

To count a million rows takes a good part of a second, so nobody counts them for a request.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, text

from jobs.queue_tables import backlog, rates

_LOCK = 5  # salt, apart from other users of advisory locks
_SHARE = 0.03  # of the time at most is spent on counting
_EVERY_SECONDS = 2.0

# The counts come from the index alone, as far as PostgreSQL knows its pages to be seen by everybody. The one
# row of each line that tells the oldest is looked up, and those with a deadline have an index of their own.
_MEASURE = text("""
    WITH counted AS MATERIALIZED (
      SELECT queue, model, tier, owner_id, count(*) AS jobs, sum(tokens) AS tokens,
        min(seq) AS first_seq, max(seq) AS last_seq
      FROM jobs WHERE state = 'queued' GROUP BY queue, model, tier, owner_id
    ), due AS (
      SELECT queue, model, tier, owner_id, min(deadline) AS soonest
      FROM jobs WHERE state = 'queued' AND deadline IS NOT NULL GROUP BY queue, model, tier, owner_id
    ), gone AS (
      DELETE FROM backlog WHERE (queue, model, tier, owner_id) NOT IN (
        SELECT queue, model, tier, owner_id FROM counted
      )
    )
    INSERT INTO backlog (queue, model, tier, owner_id, jobs, tokens, first_seq, last_seq, oldest,
      soonest_deadline, measured_at)
    SELECT counted.*, coalesce(oldest.created_at, now()), due.soonest, now()
    FROM counted
    LEFT JOIN due USING (queue, model, tier, owner_id)
    LEFT JOIN LATERAL (
      SELECT created_at FROM jobs WHERE state = 'queued' AND queue = counted.queue AND model = counted.model
        AND tier = counted.tier AND owner_id = counted.owner_id AND seq = counted.first_seq
    ) oldest ON true
    ON CONFLICT (queue, model, tier, owner_id) DO UPDATE SET jobs = excluded.jobs, tokens = excluded.tokens,
      first_seq = excluded.first_seq, last_seq = excluded.last_seq, oldest = excluded.oldest,
      soonest_deadline = excluded.soonest_deadline, measured_at = excluded.measured_at
""")


@dataclass(frozen=True)
class Waiting:
    """What one owner has in one tier of one model's queue."""

    tier: int
    owner_id: int
    jobs: int
    tokens: int
    first_seq: int
    last_seq: int
    oldest: datetime
    soonest_deadline: datetime | None
    measured_at: datetime


@dataclass(frozen=True)
class Total:
    """What all owners have together in one tier of one model's queue."""

    queue: str
    model: str
    tier: int
    owners: int
    jobs: int
    tokens: int
    oldest_seconds: float
    deadline_seconds: float | None  # from now to the soonest; negative where it has passed
    tokens_per_second: float | None  # of the model, whatever the tier; None where nobody ever ran it
    age: float  # seconds since the snapshot

    @property
    def seconds(self) -> float:
        """How long it would take if nothing else ran; 0 where no rate is known."""
        return 0.0 if self.tokens_per_second is None else self.tokens / self.tokens_per_second


def measure(connection: Connection) -> bool:
    """Replace the snapshot, in a transaction of its own; returns False where another sweeper is about to."""
    taken = select(func.pg_try_advisory_xact_lock(func.hashtextextended("backlog", _LOCK)))
    if not connection.execute(taken).scalar():
        return False
    connection.execute(_MEASURE)
    return True


def of(connection: Connection, queue: str, model: str) -> list[Waiting]:
    """What waited for a model when the snapshot was taken, tier by tier and owner by owner."""
    names = list(Waiting.__dataclass_fields__)
    mine = (backlog.c.queue == queue, backlog.c.model == model)
    found = select(*(backlog.c[name] for name in names)).where(*mine)
    return [Waiting(**row._mapping) for row in connection.execute(found.order_by("tier", "owner_id"))]


def totals(connection: Connection, queue: str | None = None, model: str | None = None) -> list[Total]:
    """The same by tier alone, with what is known of the speed; of everything, or one queue, or one model."""
    age = func.extract("epoch", func.now() - func.min(backlog.c.oldest))
    slack = func.extract("epoch", func.min(backlog.c.soonest_deadline) - func.now())
    columns = [
        func.count().label("owners"),
        func.sum(backlog.c.jobs).label("jobs"),
        func.sum(backlog.c.tokens).label("tokens"),
        age.label("oldest_seconds"),
        slack.label("deadline_seconds"),
        func.min(rates.c.tokens_per_second).label("tokens_per_second"),
        func.extract("epoch", func.clock_timestamp() - func.min(backlog.c.measured_at)).label("age"),
    ]
    line = (backlog.c.queue, backlog.c.model)
    same = (rates.c.queue == backlog.c.queue, rates.c.model == backlog.c.model)
    query = select(*line, backlog.c.tier, *columns).outerjoin_from(backlog, rates, same[0] & same[1])
    if queue is not None:
        query = query.where(backlog.c.queue == queue)
    if model is not None:
        query = query.where(backlog.c.model == model)
    rows: Sequence[Row[Any]] = connection.execute(query.group_by(*line, backlog.c.tier)).all()
    return [_total(row) for row in rows]


def owned(connection: Connection, queue: str, model: str, owner_id: int) -> dict[int, int]:
    """The tokens of one owner by tier."""
    mine = (backlog.c.queue == queue, backlog.c.model == model, backlog.c.owner_id == owner_id)
    rows = connection.execute(select(backlog.c.tier, backlog.c.tokens).where(*mine))
    return {row.tier: row.tokens for row in rows}


class Schedule:
    """When the next snapshot is due: often, but never for more than a small share of the time."""

    def __init__(self) -> None:
        self._due_at = 0.0  # time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._due_at

    def took(self, seconds: float) -> None:
        """The last one took so long."""
        self._due_at = time.monotonic() + max(_EVERY_SECONDS, seconds / _SHARE)


def _total(row: Row[Any]) -> Total:
    slack = row.deadline_seconds
    return Total(
        queue=row.queue,
        model=row.model,
        tier=row.tier,
        owners=row.owners,
        jobs=int(row.jobs),
        tokens=int(row.tokens),
        oldest_seconds=max(0.0, float(row.oldest_seconds)),
        deadline_seconds=None if slack is None else float(slack),
        tokens_per_second=row.tokens_per_second or None,
        age=max(0.0, float(row.age)),
    )
