"""Where owners want to be told of an end: their webhook endpoints and what signs their deliveries."""

import base64
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, null, select, update

from jobs.tables import owners, webhook_endpoints

EVENT_TYPES = (
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
)
MAX_ENDPOINTS = 100
"""Of one owner: each of them costs a row for every event."""

_OVERLAP = timedelta(hours=24)  # for which a rotated secret may sign on


@dataclass(frozen=True)
class WebhookEndpoint:
    """One row, as its owner may see it."""

    id: str
    name: str
    url: str
    event_types: Sequence[str]
    secret: str
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None


def new_secret() -> str:
    """A signing secret of 256 random bits, as Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def create(
    connection: Connection, owner_id: int, name: str, url: str, event_types: Iterable[str]
) -> WebhookEndpoint:
    """Make an endpoint with a secret of its own."""
    made = (
        insert(webhook_endpoints)
        .values(
            id=f"we_{secrets.token_hex(16)}",
            owner_id=owner_id,
            name=name,
            url=url,
            event_types=list(event_types),
            secret=new_secret(),
        )
        .returning(*webhook_endpoints.c)
    )
    return _endpoint(connection.execute(made).one())


def count(connection: Connection, owner_id: int) -> int:
    """How many endpoints an owner has; until the commit, nobody else counts them."""
    connection.execute(select(owners.c.id).where(owners.c.id == owner_id).with_for_update(key_share=True))
    mine = webhook_endpoints.c.owner_id == owner_id
    return int(connection.execute(select(func.count()).where(mine)).scalar_one())


def find(connection: Connection, owner_id: int, endpoint_id: str) -> WebhookEndpoint | None:
    """The owner's endpoint of that id."""
    row = connection.execute(select(webhook_endpoints).where(*_mine(owner_id, endpoint_id))).one_or_none()
    return None if row is None else _endpoint(row)


def page(
    connection: Connection, owner_id: int, after: str | None, limit: int
) -> tuple[list[WebhookEndpoint], bool]:
    """Up to `limit` endpoints that follow `after`, the newest first, and whether there are more."""
    query = select(webhook_endpoints).where(webhook_endpoints.c.owner_id == owner_id)
    if after is not None:
        mark = select(webhook_endpoints.c.seq).where(*_mine(owner_id, after)).scalar_subquery()
        query = query.where(webhook_endpoints.c.seq < mark)
    rows = connection.execute(query.order_by(webhook_endpoints.c.seq.desc()).limit(limit + 1)).all()
    return [_endpoint(row) for row in rows[:limit]], len(rows) > limit


def change(
    connection: Connection, owner_id: int, endpoint_id: str, values: dict[str, Any]
) -> WebhookEndpoint | None:
    """Give an endpoint another name, URL or list of types; a URL that is sent enables it again."""
    if not values:
        return find(connection, owner_id, endpoint_id)
    if "url" in values:
        values = values | {"disabled_at": None}
    changed = update(webhook_endpoints).where(*_mine(owner_id, endpoint_id))
    row = connection.execute(
        changed.values(**values, updated_at=func.now()).returning(*webhook_endpoints.c)
    ).one_or_none()
    return None if row is None else _endpoint(row)


def rotate(connection: Connection, owner_id: int, endpoint_id: str, keep_old: bool) -> WebhookEndpoint | None:
    """Give an endpoint a new secret; the old one may sign beside it for a day."""
    changed = update(webhook_endpoints).where(*_mine(owner_id, endpoint_id))
    row = connection.execute(
        changed.values(
            secret=new_secret(),
            old_secret=webhook_endpoints.c.secret if keep_old else null(),
            old_secret_until=func.now() + _OVERLAP if keep_old else null(),
            updated_at=func.now(),
        ).returning(*webhook_endpoints.c)
    ).one_or_none()
    return None if row is None else _endpoint(row)


def remove(connection: Connection, owner_id: int, endpoint_id: str) -> bool:
    """Delete an endpoint and what waits for it; return whether there was one."""
    return connection.execute(delete(webhook_endpoints).where(*_mine(owner_id, endpoint_id))).rowcount > 0


def _mine(owner_id: int, endpoint_id: str) -> tuple[Any, Any]:
    return webhook_endpoints.c.id == endpoint_id, webhook_endpoints.c.owner_id == owner_id


def _endpoint(row: Row[Any]) -> WebhookEndpoint:
    return WebhookEndpoint(**{name: getattr(row, name) for name in WebhookEndpoint.__dataclass_fields__})
