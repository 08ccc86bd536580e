"""Who may ask: owners and their API keys, which are kept as hashes and shown once."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs.states import State
from jobs.tables import api_keys, jobs, owners

SCOPES = ("inference", "training", "admin")
"""What a key can allow: to generate; to fine-tune; to see what other owners used."""
USUAL_SCOPES = ("inference", "training")
_PREFIX = "sk-penstock-"
_PREFIX_LENGTH = len(_PREFIX) + 12  # the part that finds the row


@dataclass(frozen=True)
class Limits:
    """The most that may be done with one key; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    queued_jobs: int | None = None
    concurrent_jobs: int | None = None  # queued and running


@dataclass(frozen=True)
class Identity:
    """The owner whose key was shown, and what the key allows."""

    owner_id: int
    scopes: frozenset[str]
    key_id: int
    limits: Limits = Limits()


@dataclass(frozen=True)
class KeyRecord:
    """A key as whoever runs the server may see it."""

    prefix: str
    owner: str
    scopes: tuple[str, ...]
    limits: Limits
    created_at: datetime
    revoked_at: datetime | None


def issue(
    connection: Connection, owner: str, scopes: Iterable[str] = USUAL_SCOPES, limits: Limits | None = None
) -> str:
    """Make a key for `owner`, who is made too if unknown; return the key, readable only now."""
    made = insert(owners).values(name=owner)
    owner_id = connection.execute(
        made.on_conflict_do_update(index_elements=["name"], set_={"name": made.excluded.name}).returning(
            owners.c.id
        )
    ).scalar_one()
    secret = secrets.token_urlsafe(32)  # 256 random bits: a plain hash is enough
    key = f"{_PREFIX}{secrets.token_hex(6)}-{secret}"
    connection.execute(
        insert(api_keys).values(
            owner_id=owner_id,
            prefix=key[:_PREFIX_LENGTH],
            digest=_digest(key),
            scopes=list(scopes),
            **asdict(limits or Limits()),
        )
    )
    return key


def identify(connection: Connection, key: str) -> Identity | None:
    """The identity behind a key; None for a wrong or revoked one."""
    row = connection.execute(
        select(api_keys).where(api_keys.c.prefix == key[:_PREFIX_LENGTH], api_keys.c.revoked_at.is_(None))
    ).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, _digest(key)):
        return None
    return Identity(row.owner_id, frozenset(row.scopes), row.id, _limits(row))


def issued(connection: Connection, owner: str | None = None) -> list[KeyRecord]:
    """Every key, or those of one owner, the oldest first."""
    query = select(api_keys, owners.c.name).join(owners).order_by(api_keys.c.id)
    if owner is not None:
        query = query.where(owners.c.name == owner)
    return [
        KeyRecord(row.prefix, row.name, tuple(row.scopes), _limits(row), row.created_at, row.revoked_at)
        for row in connection.execute(query)
    ]


def revoke(connection: Connection, prefix: str) -> bool:
    """End a key, named by its first characters as `issue` printed them; return whether there was one."""
    ended = connection.execute(
        update(api_keys)
        .where(api_keys.c.prefix == prefix[:_PREFIX_LENGTH], api_keys.c.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )
    return ended.rowcount > 0


def lock(connection: Connection, key_id: int) -> None:
    """Until the transaction ends, nobody else who asks for this lock accepts a job with the key."""
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("jobs of a key", key_id))))


def count_jobs(connection: Connection, key_id: int, states: Iterable[State], most: int) -> int:
    """How many jobs of a key are in these states, lines of batches aside; counting ends at `most`."""
    # literals, as bound values would hide the partial index from the plan
    among = jobs.c.state.in_([literal_column(f"'{state}'") for state in states])
    mine = select(jobs.c.id).where(jobs.c.api_key_id == key_id, jobs.c.batch_id.is_(None), among)
    return connection.execute(select(func.count()).select_from(mine.limit(most).subquery())).scalar_one()


def any_key(connection: Connection) -> bool:
    """Whether a key was ever issued."""
    return connection.execute(select(api_keys.c.id).limit(1)).first() is not None


def unused_name(connection: Connection) -> str:
    """A name that no owner has."""
    count = connection.execute(select(func.coalesce(func.max(owners.c.id), 0))).scalar_one()
    return f"owner-{count + 1}-{secrets.token_hex(3)}"


def _limits(row: object) -> Limits:
    return Limits(**{name: getattr(row, name) for name in Limits.__dataclass_fields__})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
