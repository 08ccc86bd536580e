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

_WEIGHTS = " ".join(f"WHEN {tier:d} THEN {weight}.0" for tier, weight in WEIGHTS.items())


def of_models(lines: str) -> str:
    """Common table expressions: `flows` has who waits in the lines of models, found one by one in the index.

    `lines` selects n (a number for the line), queue and model, and each line is a model's.
    """
    return f"""
    lines (n, queue, model) AS ({lines}),
    flows (n, queue, line, tier, owner_id) AS (
        SELECT lines.*, head.tier, head.owner_id FROM lines CROSS JOIN LATERAL (
            SELECT tier, owner_id FROM jobs
            WHERE {QUEUED} AND queue = lines.queue AND model = lines.model
            ORDER BY tier, owner_id LIMIT 1
        ) head
        UNION ALL
        SELECT flows.n, flows.queue, flows.line, head.tier, head.owner_id
        FROM flows CROSS JOIN LATERAL (
            SELECT tier, owner_id FROM jobs
            WHERE {QUEUED} AND queue = flows.queue AND model = flows.line
                AND (tier, owner_id) > (flows.tier, flows.owner_id)
            ORDER BY tier, owner_id LIMIT 1
        ) head
    )"""


def of_queues(lines: str) -> str:
    """As `of_models`, of lines in which the jobs of all models stand; `lines` selects n and queue.

    They are read to their ends: such queues are short, since their jobs are long.
    """
    return f"""
    lines (n, queue) AS ({lines}),
    flows AS (
        SELECT DISTINCT lines.n, lines.queue, '' AS line, jobs.tier, jobs.owner_id
        FROM lines JOIN jobs ON jobs.queue = lines.queue WHERE jobs.{QUEUED}
    )"""


def in_order(flows: str, most: int, which: str = "TRUE", same: str = "model = flows.line") -> str:
    """Common table expressions, of which `sure` has the first jobs of the lines of `flows`, in `BY_TURN`.

    Of each owner `most` are read, and those are sure which nothing that was not read can come before; `cut`
    has a row where something was not read. `which` says which jobs stand in the lines at all,
    and `same` which models' jobs in a line.
    """
    return f"""{flows},
    standing AS (
        SELECT flows.*, CASE flows.tier {_WEIGHTS} END AS weight,
            greatest(own.finish, turn.owners_start, 0) AS owner_base,
            greatest(turn.finish, (
                SELECT max(start) FROM tier_turns all_tiers
                WHERE all_tiers.queue = flows.queue AND all_tiers.line = flows.line
            ), 0) AS tier_base
        FROM flows
        LEFT JOIN owner_turns own ON own.queue = flows.queue AND own.line = flows.line
            AND own.tier = flows.tier AND own.owner_id = flows.owner_id
        LEFT JOIN tier_turns turn ON turn.queue = flows.queue AND turn.line = flows.line
            AND turn.tier = flows.tier
    ),
    heads AS (
        SELECT flows.n, flows.tier, flows.owner_id, flows.weight, flows.tier_base,
            job.id, job.seq, job.tokens, flows.owner_base + job.before AS owner_tag
        FROM standing flows CROSS JOIN LATERAL (
            SELECT id, seq, tokens,
                sum(tokens) OVER (ORDER BY priority DESC, seq ROWS UNBOUNDED PRECEDING) - tokens AS before
            FROM jobs
            WHERE {QUEUED} AND queue = flows.queue AND {same}
                AND tier = flows.tier AND owner_id = flows.owner_id AND {which}
            ORDER BY priority DESC, seq LIMIT {most}
        ) job
    ),
    ranked AS (
        SELECT n, tier, owner_id, weight, id, seq, tokens, owner_tag, tier_base + (
            sum(tokens) OVER among - tokens
        ) / weight AS tier_tag
        FROM heads
        WINDOW among AS (PARTITION BY n, tier ORDER BY owner_tag, seq ROWS UNBOUNDED PRECEDING)
    ),
    cut AS (
        SELECT n, tier, min(last) AS owner_tag FROM (
            SELECT n, tier, max(owner_tag) AS last FROM heads
            GROUP BY n, tier, owner_id HAVING count(*) >= {most}
        ) ends GROUP BY n, tier
    ),
    sure AS (
        SELECT ranked.* FROM ranked LEFT JOIN (
            SELECT n, min(last) AS end_tag FROM (
                SELECT ranked.n, max(ranked.tier_tag) AS last FROM ranked JOIN cut USING (n, tier)
                WHERE ranked.owner_tag <= cut.owner_tag GROUP BY ranked.n, tier
            ) ends GROUP BY n
        ) ends USING (n)
        WHERE end_tag IS NULL OR tier_tag <= end_tag
    )"""


BY_TURN = "tier_tag, tier, owner_tag, seq"


def readable(wanted: int) -> int:
    """The next power of two, to be part of a statement: else PostgreSQL would plan to read far more."""
    return 1 << max(2, wanted - 1).bit_length()
