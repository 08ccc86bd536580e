"""What owners are to be told: rows written with the end itself, and worked off until each is delivered."""

import base64
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from jobs.database import Database

SCHEDULE = tuple(
    timedelta(seconds=seconds) for seconds in (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""The wait before each attempt, after the one before it: that of Standard Webhooks."""
_JITTER = 0.1  # of a wait, at most: what failed together does not return together
_CLAIMED = timedelta(seconds=60)  # longer than an attempt takes; then another clerk may try
_OF_ONE_OWNER = 4
_KEPT = timedelta(days=7)
_OLD = "SELECT id FROM outbox WHERE due_at IS NULL AND created_at < now() - CAST(:kept AS interval)"
_BATCH = 1000  # rows of one DELETE, so that no lock is held for long

EVENTS = {
    ("response", "succeeded"): "response.completed",
    ("response", "incomplete"): "response.incomplete",
    ("response", "failed"): "response.failed",
    ("response", "cancelled"): "response.cancelled",
    ("fine_tuning.job", "succeeded"): "fine_tuning.job.succeeded",
    ("fine_tuning.job", "failed"): "fine_tuning.job.failed",
    ("fine_tuning.job", "cancelled"): "fine_tuning.job.cancelled",
}
"""What the end of a job of that kind is called."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a resource."""

    resource_id: str
    type: str  # response.completed, batch.failed, ...
    owner_id: int


@dataclass(frozen=True)
class Delivery:
    """One attempt at telling somebody."""

    id: str  # the same at every attempt, so that a receiver can tell a repetition
    owner_id: int
    type: str
    resource_id: str
    created_at: datetime
    attempt: int  # the first is 1
    target: str  # those to the same target do not run side by side
    endpoint_id: str | None
    url: str
    signing_secrets: Sequence[str]


_TELL = text("""
    WITH happened AS (
      SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:owners AS bigint[]))
        AS happened(resource, type, owner)
    ), endpoints AS (  -- locked: one that is deleted just now would break the end that is told
      SELECT happened.*, endpoint.id AS endpoint_id, NULL AS url, NULL::bigint AS api_key_id
      FROM happened JOIN webhook_endpoints endpoint ON endpoint.owner_id = happened.owner
      WHERE endpoint.disabled_at IS NULL AND happened.type = ANY(endpoint.event_types)
      FOR KEY SHARE OF endpoint
    ), wanted AS (
      SELECT * FROM endpoints
      UNION ALL
      SELECT happened.*, NULL, jobs.webhook->>'url', jobs.api_key_id
      FROM happened JOIN jobs ON jobs.id = happened.resource
      WHERE jobs.webhook IS NOT NULL
        AND happened.type IN (SELECT json_array_elements_text(jobs.webhook->'events'))
    )
    INSERT INTO outbox (id, owner_id, endpoint_id, url, api_key_id, type, resource_id, due_at)
    SELECT 'evt_' || replace(gen_random_uuid()::text, '-', ''), owner, endpoint_id, url, api_key_id,
      type, resource, now()
    FROM wanted
""")

_CLAIM = text("""
    WITH due AS (
      SELECT id, owner_id, due_at, coalesce(endpoint_id, url) AS target FROM outbox
      WHERE due_at <= now() AND coalesce(endpoint_id, url) <> ALL(CAST(:busy AS text[]))
        AND owner_id <> ALL(CAST(:full AS bigint[]))
      ORDER BY due_at LIMIT 1000
    ), each_target AS (
      SELECT DISTINCT ON (target) id, owner_id, due_at FROM due ORDER BY target, due_at
    ), fair AS (
      SELECT id, due_at, row_number() OVER (PARTITION BY owner_id ORDER BY due_at) AS turn FROM each_target
    ), first AS (
      SELECT id FROM fair WHERE turn <= :each ORDER BY due_at LIMIT :limit
    ), free AS (
      SELECT outbox.id FROM outbox JOIN first ON first.id = outbox.id
      WHERE outbox.due_at <= now() FOR UPDATE OF outbox SKIP LOCKED
    ), claimed AS (
      UPDATE outbox SET attempts = attempts + 1, due_at = now() + :claimed
      FROM free WHERE outbox.id = free.id RETURNING outbox.*
    )
    SELECT claimed.id, claimed.owner_id, claimed.type, claimed.resource_id, claimed.created_at,
      claimed.attempts, claimed.endpoint_id, coalesce(endpoint.url, claimed.url) AS url, endpoint.secret,
      CASE WHEN endpoint.old_secret_until > now() THEN endpoint.old_secret END AS old_secret, key.digest
    FROM claimed LEFT JOIN webhook_endpoints endpoint ON endpoint.id = claimed.endpoint_id
    LEFT JOIN api_keys key ON key.id = claimed.api_key_id
""")


def tell(connection: Connection, events: Iterable[Event]) -> int:
    """Write down what happened, once for everybody who wants to know; the caller's commit makes it so.

    Returns how many deliveries there will be.
    """
    given = list(events)
    if not given:
        return 0
    values = {
        "ids": [event.resource_id for event in given],
        "types": [event.type for event in given],
        "owners": [event.owner_id for event in given],
    }
    return connection.execute(_TELL, values).rowcount


def any_due(connection: Connection) -> bool:
    """Whether anybody is to be told now."""
    return connection.execute(text("SELECT 1 FROM outbox WHERE due_at <= now() LIMIT 1")).first() is not None


def claim(connection: Connection, running: Collection[Delivery], limit: int) -> list[Delivery]:
    """Take up to `limit` due deliveries, the oldest of each target that none of those `running` goes to.

    Of one owner about `_OF_ONE_OWNER` run at once: whose targets all hang shall not hold up the others.
    """
    owners = Counter(each.owner_id for each in running)
    values = {
        "busy": [each.target for each in running],
        "full": [owner for owner, count in owners.items() if count >= _OF_ONE_OWNER],
        "each": _OF_ONE_OWNER,
        "limit": limit,
        "claimed": _CLAIMED,
    }
    return [
        Delivery(
            id=row.id,
            owner_id=row.owner_id,
            type=row.type,
            resource_id=row.resource_id,
            created_at=row.created_at,
            attempt=row.attempts,
            target=row.endpoint_id or row.url,
            endpoint_id=row.endpoint_id,
            url=row.url,
            signing_secrets=[s for s in (row.secret, row.old_secret, _of_key(row.digest)) if s],
        )
        for row in connection.execute(_CLAIM, values)
    ]


def delivered(connection: Connection, delivery: Delivery) -> None:
    """Its target took it."""
    done = text("UPDATE outbox SET due_at = NULL, delivered_at = now(), last_error = NULL WHERE id = :id")
    connection.execute(done, {"id": delivery.id})


def failed(connection: Connection, delivery: Delivery, error: str) -> timedelta | None:
    """Its target did not take it; returns the wait before the next attempt, None if that was the last."""
    wait = None
    if delivery.attempt < len(SCHEDULE):
        wait = SCHEDULE[delivery.attempt] * (1 + random.uniform(0, _JITTER))
    again = text("""
        UPDATE outbox SET due_at = now() + :wait, last_error = :error
        WHERE id = :id AND attempts = :attempt AND due_at IS NOT NULL  -- else another attempt knows better
    """)
    values = {"id": delivery.id, "attempt": delivery.attempt, "wait": wait, "error": error}
    connection.execute(again, values)
    return wait


def gone(connection: Connection, delivery: Delivery) -> None:
    """Its target says that there is nobody any more: tell it nothing further."""
    disabled = text(  # first: who deletes it locks it before its deliveries, too
        "UPDATE webhook_endpoints SET disabled_at = now(), updated_at = now() WHERE id = :endpoint"
    )
    connection.execute(disabled, {"endpoint": delivery.endpoint_id})
    never = text("""
        UPDATE outbox SET due_at = NULL, last_error = '410 Gone'
        WHERE due_at IS NOT NULL AND (id = :id OR endpoint_id = :endpoint)
    """)
    connection.execute(never, {"id": delivery.id, "endpoint": delivery.endpoint_id})


def standing(connection: Connection) -> tuple[int, float]:
    """How many deliveries are to be tried, now or later, and for how many seconds the oldest has been due."""
    waiting = text("""
        SELECT count(*), coalesce(extract(epoch FROM now() - min(due_at)), 0)
        FROM outbox WHERE due_at IS NOT NULL
    """)
    count, seconds = connection.execute(waiting).one()
    return count, max(0.0, float(seconds))


def is_prunable(connection: Connection) -> bool:
    """Whether there is a row that nobody waits for any more."""
    return connection.execute(text(f"{_OLD} LIMIT 1"), {"kept": _KEPT}).first() is not None


def prune(database: Database) -> int:
    """Delete the rows that nobody waits for any more; return how many."""
    total = 0
    while True:
        with database.transaction() as connection:
            old = text(f"DELETE FROM outbox WHERE id IN ({_OLD} LIMIT {_BATCH})")
            gone = connection.execute(old, {"kept": _KEPT}).rowcount
        total += gone
        if gone < _BATCH:
            return total


def secret_of_key(digest: bytes) -> str:
    """What signs the deliveries of a request's own webhook: its sender can make it from the API key."""
    return "whsec_" + base64.b64encode(digest).decode()


def _of_key(digest: bytes | None) -> str | None:
    return None if digest is None else secret_of_key(digest)
