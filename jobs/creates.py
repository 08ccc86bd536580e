"""Which request made what, so that a repeated one makes nothing twice: the only module that writes `creates`.

A client whose connection broke cannot know whether its create was accepted, and sends it again. The row that
tells is written in the transaction that makes the object, under a lock, so a repetition waits for a request
that is just being accepted.
"""

import hashlib
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from jobs.database import Database
from jobs.tables import creates

_REPEATED = timedelta(minutes=10)  # a retry without a key of its own is told from a new request for this long
_REMEMBERED = timedelta(hours=24)  # an Idempotency-Key
_KEPT = 2 * _REPEATED  # a row may still count who waits
_BATCH = 1000  # rows of one DELETE, so that no lock is held for long

# built once: every create runs two of them
_LOCK_ALONE = select(func.pg_advisory_xact_lock(bindparam("name", type_=BigInteger)))
_LOCK_TOGETHER = select(func.pg_advisory_xact_lock_shared(bindparam("name", type_=BigInteger)))
_RECORD = insert(creates)


class KeyReused(Exception):
    """An idempotency key came with another request than the first time."""


@dataclass(frozen=True)
class Create:
    """A request that makes something, as far as a repetition of it can be told."""

    api_key_id: int
    path: str
    digest: bytes  # SHA-256 of the body, or of a form's parts
    idempotency_key: str | None = None
    retries: int = 0  # how often its client sent it before

    @property
    def repeats(self) -> bool:
        """Whether an earlier request may have made already what this one asks for."""
        return self.retries > 0 or self.idempotency_key is not None

    @property
    def lock(self) -> int:
        """The name of the lock that this request and its repetitions share, in 64 bits."""
        identity = (self.path, self.digest) if self.idempotency_key is None else (self.idempotency_key,)
        name = hashlib.sha256(repr((self.api_key_id, *identity)).encode()).digest()
        return int.from_bytes(name[:8], signed=True)


def lock(connection: Connection, create: Create) -> None:
    """Until the transaction ends, let no repetition of this create look; a repetition also waits for those
    that are being accepted. First requests, which look for nothing, do not wait for each other.
    """
    connection.execute(_LOCK_ALONE if create.repeats else _LOCK_TOGETHER, {"name": create.lock})


GIVEN: dict[str, Any] = {"create_path": Text(), "create_digest": Text(), "create_lock": BigInteger()}
"""What `first_of` needs beside `id` and `api_key_id`, and `given_of` gives."""


def given_of(create: Create) -> dict[str, str | int]:
    """A first request as JSON can carry it."""
    return {
        "create_path": create.path,
        "create_digest": create.digest.hex(),
        "create_lock": create.lock,
    }


def first_of(given: FromClause) -> CTE:
    """The part of a statement that does what `lock` and `record` do, of the first requests in a table.

    The locks are taken in the order of their names, so that two such statements never wait for each other.
    """
    names = select(given.c.create_lock).where(given.c.create_lock.is_not(None)).distinct()
    ordered = names.order_by(given.c.create_lock).subquery("names")
    locked = select(func.pg_advisory_xact_lock_shared(ordered.c.create_lock).label("held")).cte("locked")
    taken = select(func.count(locked.c.held).label("locks")).subquery("taken")
    digest = func.decode(given.c.create_digest, literal_column("'hex'"))
    first = select(given.c.id, given.c.api_key_id, given.c.create_path, digest, literal_column("0"))
    # PostgreSQL reads of a statement only what is needed, so the locks must seem to be
    first = first.join(taken, taken.c.locks >= 0).where(given.c.create_path.is_not(None))
    columns = ["resource_id", "api_key_id", "path", "digest", "retries"]
    return insert(creates).from_select(columns, first).cte("recorded")


def join(connection: Connection, create: Create) -> str | None:
    """The id of what an earlier request made, for which this one waits from now on; needs the lock.

    Of several equal requests that nobody else repeated yet, the last is the one; so those that were cut
    together each find one of their own.

    Raises:
        KeyReused: the key came with another path or body.
    """
    which = _same_key(connection, create) if create.idempotency_key is not None else _last_equal(create)
    counted = {"retries": func.greatest(creates.c.retries, create.retries), "waiters": creates.c.waiters + 1}
    joined = update(creates).where(which).values(**counted).returning(creates.c.resource_id)
    return connection.execute(joined).scalar_one_or_none()


def record(connection: Connection, create: Create, resource_id: str) -> None:
    """Write that this request made it; the caller's commit makes both true."""
    values = {"resource_id": resource_id, **asdict(create)}
    connection.execute(_RECORD, values)


def forget(connection: Connection, resource_id: str) -> None:
    """Let no later request be answered with it."""
    connection.execute(delete(creates).where(creates.c.resource_id == resource_id))


def leave(connection: Connection, resource_id: str) -> bool:
    """Stop waiting for it; return whether nobody else does."""
    one_less = update(creates).where(creates.c.resource_id == resource_id)
    left = connection.execute(
        one_less.values(waiters=creates.c.waiters - 1).returning(creates.c.waiters)
    ).scalar_one_or_none()
    return left is None or left <= 0


def is_prunable(connection: Connection) -> bool:
    """Whether any row is past its time."""
    return connection.execute(_expired().limit(1)).first() is not None


def prune(database: Database) -> int:
    """Delete the rows that are past their time; return how many."""
    total = 0
    while True:
        with database.transaction() as connection:
            batch = _expired().limit(_BATCH).with_for_update(skip_locked=True)
            gone = connection.execute(delete(creates).where(creates.c.resource_id.in_(batch))).rowcount
        total += gone
        if gone < _BATCH:
            return total


def _same_key(connection: Connection, create: Create) -> ColumnElement[bool]:
    same = and_(
        creates.c.api_key_id == create.api_key_id, creates.c.idempotency_key == create.idempotency_key
    )
    connection.execute(delete(creates).where(same, creates.c.created_at < func.now() - _REMEMBERED))
    row = connection.execute(select(creates.c.path, creates.c.digest).where(same)).one_or_none()
    if row is not None and (row.path, row.digest) != (create.path, create.digest):
        raise KeyReused
    return same


def _last_equal(create: Create) -> ColumnElement[bool]:
    last = (
        select(creates.c.resource_id)
        .where(
            creates.c.api_key_id == create.api_key_id,
            creates.c.path == create.path,
            creates.c.digest == create.digest,
            creates.c.idempotency_key.is_(None),
            creates.c.created_at > func.now() - _REPEATED,
        )
        .order_by((creates.c.retries < create.retries).desc(), creates.c.retries.desc())
        .order_by(creates.c.created_at.desc())
        .limit(1)
        .with_for_update()
    )
    return creates.c.resource_id == last.scalar_subquery()


def _expired() -> Select[Any]:
    age = creates.c.created_at
    without_key = and_(creates.c.idempotency_key.is_(None), age < func.now() - _KEPT)
    due = or_(without_key, age < func.now() - _REMEMBERED)
    return select(creates.c.resource_id).where(age < func.now() - _KEPT, due).order_by(age)
