"""Who may ask: owners and their API keys, which are kept as hashes and shown once."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs.tables import api_keys, owners

SCOPES = ("inference", "training")
_PREFIX = "sk-penstock-"
_PREFIX_LENGTH = len(_PREFIX) + 12  # the part that finds the row


@dataclass(frozen=True)
class Identity:
    """The owner whose key was shown, and what the key allows."""

    owner_id: int
    scopes: frozenset[str]
    key_id: int


def issue(connection: Connection, owner: str) -> str:
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
            owner_id=owner_id, prefix=key[:_PREFIX_LENGTH], digest=_digest(key), scopes=list(SCOPES)
        )
    )
    return key


def identify(connection: Connection, key: str) -> Identity | None:
    """The identity behind a key; None for a wrong or revoked one."""
    row = connection.execute(
        select(api_keys.c.id, api_keys.c.owner_id, api_keys.c.digest, api_keys.c.scopes).where(
            api_keys.c.prefix == key[:_PREFIX_LENGTH], api_keys.c.revoked_at.is_(None)
        )
    ).one_or_none()
    if row is None or not hmac.compare_digest(row.digest, _digest(key)):
        return None
    return Identity(row.owner_id, frozenset(row.scopes), row.id)


def revoke(connection: Connection, prefix: str) -> bool:
    """End a key, named by its first characters as `issue` printed them; return whether there was one."""
    ended = connection.execute(
        update(api_keys)
        .where(api_keys.c.prefix == prefix[:_PREFIX_LENGTH], api_keys.c.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )
    return ended.rowcount > 0


def any_key(connection: Connection) -> bool:
    """Whether a key was ever issued."""
    return connection.execute(select(api_keys.c.id).limit(1)).first() is not None


def unused_name(connection: Connection) -> str:
    """A name that no owner has."""
    count = connection.execute(select(func.coalesce(func.max(owners.c.id), 0))).scalar_one()
    return f"owner-{count + 1}-{secrets.token_hex(3)}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
