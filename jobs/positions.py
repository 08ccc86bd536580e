"""Where queued jobs stand: the place of each in the order of the claims, and what is claimed before it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import psycopg
from sqlalchemy import Text, bindparam, column, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from jobs import ordering
from jobs.attempts import WEIGHTS, Tier
from jobs.ordering import QUEUED
from jobs.statements import Statement, array

EXACT = 1000
"""Up to here a place is exact; beyond it is estimated, and never said to be less."""


@dataclass(frozen=True)
class Rate:
    """How fast a line went of late: see `rates`."""

    tokens_per_second: float
    stream_tokens_per_second: float
    late50: float
    late90: float


@dataclass(frozen=True)
class Place:
    """Where a queued job stands."""

    position: int  # 1 is next
    tokens_ahead: int  # of the jobs before it; of an estimated place estimated too
    tokens: int  # its own
    tier: int
    rate: Rate | None


@dataclass(frozen=True)
class Asked:
    """A queued job that is asked for."""

    id: str
    seq: int
    queue: str
    model: str
    tier: int
    owner_id: int
    tokens: int
    own: int  # jobs of its owner before the first of that owner's that are asked for, EXACT at most
    owners: int  # who wait in its line
    rate: Rate | None


_Stand = tuple[int | None, int | None]
"""A place and the tokens before it; None where it is to be estimated."""
_CLAIMED: _Stand = (1, 0)
_FAR: _Stand = (None, None)


def find(connection: psycopg.Connection, job_ids: Collection[str]) -> dict[str, Place]:
    """The places of those that are queued, by id."""
    if not job_ids:
        return {}
    found = {row[0]: _asked(*row) for row in _asking().rows(connection, ids=array(job_ids))}
    near = [one for one in found.values() if one.own < EXACT]
    stand = dict.fromkeys((one.id for one in near), _CLAIMED)  # of those that are gone by the next look
    stand |= {name: (position, ahead) for name, position, ahead in _exact(connection, near)}
    estimated = [one for one in found.values() if stand.get(one.id, _FAR)[0] is None]
    waiting = _snapshot(connection, estimated)
    stand |= {one.id: _estimate(waiting.get(_line(one), []), one) for one in estimated}
    return {
        name: Place(*cast(tuple[int, int], stand[name]), one.tokens, one.tier, one.rate)
        for name, one in found.items()
    }


def _asked(*row: Any) -> Asked:
    rate = None if row[9] is None else Rate(*row[9:])
    return Asked(*row[:9], rate)  # type: ignore[call-arg]  # mypy takes a slice to be as long as it likes


def _line(asked: Asked) -> tuple[str, str]:
    return asked.queue, asked.model if asked.queue == _OF_MODELS else ""


def _exact(connection: psycopg.Connection, near: Collection[Asked]) -> Iterator[tuple[str, *_Stand]]:
    """Id, place and tokens before it of those that are queued still; None beyond EXACT."""
    of_queues = [one.id for one in near if one.queue != _OF_MODELS]
    if of_queues:
        yield from (row[:3] for row in _placing_in_queues().rows(connection, ids=array(of_queues)))
    of_models = [one for one in near if one.queue == _OF_MODELS]
    if not of_models:
        return
    # others are likely to have about as many before it, and all together hardly more than can be exact
    share = max(EXACT * 5 // 4 // one.owners for one in of_models) + 16
    most = ordering.readable(min(share, max(one.own for one in of_models) * 3 // 2 + len(of_models) + 16))
    ids = array(one.id for one in of_models)
    rows = _placing_in_models(most).rows(connection, ids=ids)
    if any(unsure for *_, unsure in rows):  # somebody has many small jobs before it
        rows = _placing_in_models(ordering.readable(EXACT)).rows(connection, ids=ids)
    yield from (row[:3] for row in rows)


def _snapshot(
    connection: psycopg.Connection, asked: Collection[Asked]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What waited in the lines of these when it was counted last."""
    if not asked:
        return {}
    queues = array({one.queue for one in asked})
    waiting: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (flow,) in _BACKLOG.rows(connection, queues=queues):
        of_model = flow["model"] if flow["queue"] == _OF_MODELS else ""
        waiting.setdefault((flow["queue"], of_model), []).append(flow)
    return waiting


def _estimate(backlog: Sequence[Mapping[str, Any]], asked: Asked) -> tuple[int, int]:
    """A place and the tokens before it, from the last snapshot of what waits.

    The job is as far in its owner's line as its number is between the first and the last there. By then each
    other owner of its tier has had as many tokens, and the other tiers theirs by weight, as far as they have
    so many.
    """
    own = [f for f in backlog if (f["tier"], f["owner_id"]) == (asked.tier, asked.owner_id)]
    if not own:  # it came since, and stands behind all that were counted
        return max(EXACT, sum(f["jobs"] for f in backlog)), sum(f["tokens"] for f in backlog)
    length = max(1, max(f["last_seq"] for f in own) - min(f["first_seq"] for f in own))
    share = min(1.0, max(0.0, (asked.seq - min(f["first_seq"] for f in own)) / length))
    had = sum(f["tokens"] for f in own) * share
    in_tier = sum(min(f["tokens"], had) for f in backlog if f["tier"] == asked.tier)
    jobs_ahead = tokens_ahead = 0.0
    for flow in backlog:
        if flow["tier"] == asked.tier:
            part = min(1.0, had / flow["tokens"])
        else:
            waits = sum(f["tokens"] for f in backlog if f["tier"] == flow["tier"])
            part = min(1.0, in_tier * WEIGHTS[Tier(flow["tier"])] / WEIGHTS[Tier(asked.tier)] / waits)
        jobs_ahead += flow["jobs"] * part
        tokens_ahead += flow["tokens"] * part
    return max(EXACT, round(jobs_ahead)), round(tokens_ahead)


_OF_MODELS = "generate"  # the queue in which each model has a line
_IDS = bindparam("ids", type_=ARRAY(Text))
_BACKLOG = Statement(
    select(
        text("SELECT row_to_json(backlog.*) AS flow FROM backlog WHERE queue = ANY(:queues)")
        .bindparams(bindparam("queues", type_=ARRAY(Text)))
        .columns(column("flow"))
        .cte("found")
    ),
    "queues",
)


@cache
def _asking() -> Statement:
    """How many jobs of an owner are before the first that is asked for: EXACT is enough to know."""
    before = f"""
        SELECT 1 FROM jobs WHERE jobs.{QUEUED} AND jobs.queue = asked.queue AND jobs.model = asked.model
            AND jobs.tier = asked.tier AND jobs.owner_id = asked.owner_id"""
    return _statement(
        f"""
        WITH RECURSIVE asked AS MATERIALIZED ({_ASKED}), {ordering.of_models(_MODELS)},
        firsts AS (
            SELECT queue, model, tier, owner_id, own FROM (
                SELECT DISTINCT ON (queue, model, tier, owner_id) * FROM asked
                ORDER BY queue, model, tier, owner_id, priority DESC, seq
            ) asked CROSS JOIN LATERAL (
                SELECT
                    (SELECT count(*) FROM ({before} AND jobs.priority > asked.priority LIMIT {EXACT}) a)
                    + (SELECT count(*) FROM ({before} AND jobs.priority = asked.priority
                        AND jobs.seq < asked.seq LIMIT {EXACT}) b) AS own
            ) counted
        )
        SELECT asked.id, asked.seq, asked.queue, asked.model, asked.tier, asked.owner_id, asked.tokens,
            firsts.own, (SELECT count(*) FROM flows WHERE flows.queue = asked.queue
                AND flows.line = asked.model) AS owners,
            rates.tokens_per_second, rates.stream_tokens_per_second, rates.late50, rates.late90
        FROM asked JOIN firsts USING (queue, model, tier, owner_id)
        LEFT JOIN rates ON rates.queue = asked.queue AND rates.model = asked.model""",
        *("id", "seq", "queue", "model", "tier", "owner_id", "tokens", "own", "owners"),
        *("tokens_per_second", "stream_tokens_per_second", "late50", "late90"),
    )


@cache
def _placing_in_models(most: int) -> Statement:
    return _placing(ordering.in_order(ordering.of_models(_MODELS), most), "lines.model = asked.model")


@cache
def _placing_in_queues() -> Statement:
    lines = "SELECT row_number() OVER (), queue FROM (SELECT DISTINCT queue FROM asked) queues"
    order = ordering.in_order(ordering.of_queues(lines), ordering.readable(EXACT), same="TRUE")
    return _placing(order, "TRUE")


def _placing(order: str, same_line: str) -> Statement:
    over = f"(PARTITION BY n ORDER BY {ordering.BY_TURN} ROWS UNBOUNDED PRECEDING)"
    return _statement(
        f"""
        WITH RECURSIVE asked AS MATERIALIZED ({_ASKED}), {order},
        placed AS (
            SELECT n, id, row_number() OVER {over} AS position, sum(tokens) OVER {over} - tokens AS ahead
            FROM sure
        )
        SELECT asked.id, placed.position, CAST(placed.ahead AS bigint) AS ahead, placed.id IS NULL
            AND (SELECT count(*) FROM placed WHERE placed.n = lines.n) < {EXACT} AS unsure
        FROM asked JOIN lines ON lines.queue = asked.queue AND {same_line}
        LEFT JOIN placed ON placed.id = asked.id AND placed.position <= {EXACT}""",
        *("id", "position", "ahead", "unsure"),
    )


_MODELS = "SELECT row_number() OVER (), * FROM (SELECT DISTINCT queue, model FROM asked) models"
_ASKED = f"""
    SELECT id, seq, priority, queue, model, tier, owner_id, tokens FROM jobs
    WHERE id = ANY(:ids) AND {QUEUED}"""


def _statement(query: str, *names: str) -> Statement:
    found = text(query).bindparams(_IDS).columns(*(column(name) for name in names))
    return Statement(select(found.cte("found")), "ids")
