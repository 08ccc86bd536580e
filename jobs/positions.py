"""Where queued jobs stand: the place of each in the order of the claims, and what is claimed before it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import Text, bindparam, column, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from jobs import ordering
from jobs.attempts import WEIGHTS, Tier
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


def find(connection: psycopg.Connection, job_ids: Collection[str]) -> dict[str, Place]:
    """The places of those that are queued, by id."""
    if not job_ids:
        return {}
    return {row[0]: _place(*row[1:]) for row in _finding().rows(connection, ids=array(job_ids))}


def _place(
    position: int | None,
    ahead: int | None,
    tokens: int,
    tier: int,
    owner_id: int,
    seq: int,
    backlog: list[dict[str, Any]] | None,
    *speed: float | None,
) -> Place:
    rate = None if speed[0] is None else Rate(*(number or 0.0 for number in speed))
    if position is None or ahead is None:
        position, ahead = _estimate(backlog or [], tier, owner_id, seq)
    return Place(position, int(ahead), tokens, tier, rate)


def _estimate(backlog: Sequence[Mapping[str, Any]], tier: int, owner_id: int, seq: int) -> tuple[int, int]:
    """A place and the tokens before it, from the last snapshot of what waits.

    The job is as far in its owner's line as its number is between the first and the last there. By then each
    other owner of its tier has had as many tokens, and the other tiers theirs by weight, as far as they have
    so many.
    """
    flows = [(flow["tier"], flow["owner_id"], flow["tokens"], flow["jobs"]) for flow in backlog]
    own = next((flow for flow in backlog if (flow["tier"], flow["owner_id"]) == (tier, owner_id)), None)
    if own is None:  # nothing was counted since it came: it is the last of all that are known
        return max(EXACT, sum(jobs for *_, jobs in flows)), sum(tokens for _, _, tokens, _ in flows)
    length = max(1, own["last_seq"] - own["first_seq"])
    share = min(1.0, max(0.0, (seq - own["first_seq"]) / length))
    had = own["tokens"] * share
    got = {one: min(tokens, had) for one, (of, _, tokens, _) in enumerate(flows) if of == tier}
    of_tier = sum(got.values())
    for other, weight in WEIGHTS.items():
        members = [one for one, flow in enumerate(flows) if flow[0] == other and other != tier]
        waits = sum(flows[one][2] for one in members)
        part = min(1.0, of_tier * weight / WEIGHTS[Tier(tier)] / waits) if waits else 0.0
        got |= {one: flows[one][2] * part for one in members}
    jobs_ahead = sum(flows[one][3] * tokens / flows[one][2] for one, tokens in got.items() if flows[one][2])
    return max(EXACT, round(jobs_ahead)), round(sum(got.values()))


_LINES = """
    SELECT DISTINCT queue, model, model FROM asked WHERE queue = 'generate'
    UNION ALL
    SELECT DISTINCT jobs.queue, '', jobs.model
    FROM (SELECT DISTINCT queue FROM asked WHERE queue <> 'generate') others
    JOIN jobs ON jobs.queue = others.queue WHERE jobs.state = 'queued'"""
_OVER = f"(PARTITION BY queue, line ORDER BY {ordering.BY_TURN} ROWS UNBOUNDED PRECEDING)"


_NAMES = (
    *("id", "position", "ahead", "tokens", "tier", "owner_id", "seq", "backlog"),
    *("tokens_per_second", "stream_tokens_per_second", "late50", "late90"),
)


@cache
def _finding() -> Statement:
    found = text(f"""
        WITH RECURSIVE asked AS MATERIALIZED (
            SELECT id, seq, queue, model, tier, owner_id, tokens FROM jobs
            WHERE id = ANY(:ids) AND state = 'queued'
        ),
        {ordering.in_order(_LINES)},
        placed AS (
            SELECT id, row_number() OVER {_OVER} AS position, sum(tokens) OVER {_OVER} - tokens AS ahead
            FROM ranked
        )
        SELECT asked.id, placed.position, placed.ahead, asked.tokens, asked.tier, asked.owner_id, asked.seq,
            CASE WHEN placed.id IS NULL THEN (
                SELECT json_agg(backlog.*) FROM backlog WHERE backlog.queue = asked.queue
                    AND (backlog.model = asked.model OR asked.queue <> 'generate')
            ) END AS backlog,
            rates.tokens_per_second, rates.stream_tokens_per_second, rates.late50, rates.late90
        FROM asked
        LEFT JOIN placed ON placed.id = asked.id AND placed.position <= {EXACT}
        LEFT JOIN rates ON rates.queue = asked.queue AND rates.model = asked.model
    """)
    ids = bindparam("ids", type_=ARRAY(Text))
    rows = found.bindparams(ids, bindparam("most", EXACT)).columns(*(column(name) for name in _NAMES))
    return Statement(select(rows.cte("found")), "ids")
