"""In which order the jobs of a queue are claimed, as SQL that claims and queue positions share.

Fair by tokens on two levels: between the tiers by their weights, and within a tier between the owners alike.
Each that waits has a virtual time, which moves by the tokens it got (over its weight); who is behind is next.
This is start-time fair queueing (Goyal, Vin and Cheng 1996): it shares as deficit round robin does, to within
a job of each, and its order is a number for every job, so that a place in it can be told. Who comes anew, or
after a pause, starts where the others stand, and not with what it did not use.

Virtual times are kept by `claims` in `tier_turns` and `owner_turns`. An owner's jobs stand in the order of
their priorities, then of their arrival. Only the first few of each owner are read, through an index, so that
the cost grows with the owners who wait and with what is asked for, not with the jobs that wait.
"""

from jobs.attempts import WEIGHTS

QUEUED = "state = 'queued'"
"""As it stands in the index: a bound value would hide it from the plan."""
DUE = (
    "available_at <= clock_timestamp() AND paused_at IS NULL"
    " AND (deadline IS NULL OR deadline > clock_timestamp())"
)

ONE_MODEL = "SELECT CAST(:queue AS text), CAST(:line AS text), CAST(:line AS text)"
"""The line of a model's jobs, for `in_order`."""
ALL_MODELS = (
    "SELECT DISTINCT CAST(:queue AS text), '', model FROM jobs WHERE state = 'queued' AND queue = :queue"
)
"""The line in which jobs of all models stand: of a queue whose workers take any."""

_WEIGHT = (
    f"CASE heads.tier {' '.join(f'WHEN {tier:d} THEN {weight}.0' for tier, weight in WEIGHTS.items())} END"
)


def in_order(lines: str, which: str = "TRUE") -> str:
    """Common table expressions, of which `ranked` has the first jobs of lines, at most `:most` an owner.

    `lines` selects queue, line and model; `which` says which jobs stand in them. The order of `ranked` is
    by tier_tag, tier, owner_tag, seq: see `BY_TURN`.
    """
    return f"""
    lines (queue, line, model) AS ({lines}),
    flows (queue, line, model, tier, owner_id) AS (
        SELECT lines.*, head.tier, head.owner_id FROM lines CROSS JOIN LATERAL (
            SELECT tier, owner_id FROM jobs
            WHERE {QUEUED} AND queue = lines.queue AND model = lines.model
            ORDER BY tier, owner_id LIMIT 1
        ) head
        UNION ALL
        SELECT flows.queue, flows.line, flows.model, head.tier, head.owner_id
        FROM flows CROSS JOIN LATERAL (
            SELECT tier, owner_id FROM jobs
            WHERE {QUEUED} AND queue = flows.queue AND model = flows.model
                AND (tier, owner_id) > (flows.tier, flows.owner_id)
            ORDER BY tier, owner_id LIMIT 1
        ) head
    ),
    heads AS (
        SELECT flows.queue, flows.line, flows.tier, flows.owner_id, job.*,
            greatest(own.finish, among.owners_start, 0) + sum(job.tokens) OVER flow - job.tokens AS owner_tag
        FROM flows CROSS JOIN LATERAL (
            SELECT id, seq, priority, tokens FROM jobs
            WHERE {QUEUED} AND queue = flows.queue AND model = flows.model
                AND tier = flows.tier AND owner_id = flows.owner_id AND {which}
            ORDER BY priority DESC, seq LIMIT :most
        ) job
        LEFT JOIN owner_turns own ON own.queue = flows.queue AND own.line = flows.line
            AND own.tier = flows.tier AND own.owner_id = flows.owner_id
        LEFT JOIN tier_turns among ON among.queue = flows.queue AND among.line = flows.line
            AND among.tier = flows.tier
        WINDOW flow AS (
            PARTITION BY flows.queue, flows.line, flows.tier, flows.owner_id
            ORDER BY job.priority DESC, job.seq ROWS UNBOUNDED PRECEDING
        )
    ),
    ranked AS (
        SELECT heads.*, greatest(turn.finish, since.start, 0)
            + (sum(heads.tokens) OVER among - heads.tokens) / {_WEIGHT} AS tier_tag
        FROM heads
        LEFT JOIN tier_turns turn ON turn.queue = heads.queue AND turn.line = heads.line
            AND turn.tier = heads.tier
        LEFT JOIN (SELECT queue, line, max(start) AS start FROM tier_turns GROUP BY queue, line) since
            ON since.queue = heads.queue AND since.line = heads.line
        WINDOW among AS (
            PARTITION BY heads.queue, heads.line, heads.tier
            ORDER BY owner_tag, seq ROWS UNBOUNDED PRECEDING
        )
    )"""


BY_TURN = "tier_tag, tier, owner_tag, seq"
