"""How an owner leaves with everything: keys first, then all rows, a thousand at a time, and the owner last.

What still runs loses its claim with its row: the worker drops it at its next heartbeat and writes nothing.
Artifacts go an hour later, when the clerk sees that no row names them.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, Connection, Table, delete, func, select, tuple_, update

from jobs import files, published, training
from jobs.database import Database
from jobs.tables import api_keys, batches, creates, jobs, model_versions, outbox, owners, webhook_endpoints

_ROWS = 1000  # of one transaction, so that no lock is held for long


def erase(database: Database, owner: str, gone: Callable[[Sequence[str]], None]) -> dict[str, int] | None:
    """Delete an owner and all that is its own; return what and how much, None if there is no such owner.

    `gone` hears the ids of each thousand jobs once they are deleted. May be broken off and begun again.

    Raises:
        DatabaseUnavailable: some of it is gone; ask again.
    """
    with database.transaction() as connection:
        owner_id = connection.execute(select(owners.c.id).where(owners.c.name == owner)).scalar()
        if owner_id is None:
            return None
        mine = api_keys.c.owner_id == owner_id
        ended = update(api_keys).where(mine, api_keys.c.revoked_at.is_(None)).values(revoked_at=func.now())
        connection.execute(ended)
        key_ids = connection.execute(select(api_keys.c.id).where(mine)).scalars().all()
    counts = {
        "jobs": _all(database, lambda connection: _jobs(connection, owner_id, gone)),
        "batches": _rows(database, batches, batches.c.owner_id == owner_id),
        "files": _all(database, lambda connection: files.remove_some(connection, owner_id, _ROWS)),
        "models": _all(database, lambda connection: _models(connection, owner_id)),
        "webhook endpoints": _rows(database, webhook_endpoints, webhook_endpoints.c.owner_id == owner_id),
    }
    _rows(database, outbox, outbox.c.owner_id == owner_id)
    _rows(database, creates, creates.c.api_key_id.in_(key_ids))
    with (
        database.transaction() as connection
    ):  # keys and usage go with it, and what came in their last seconds
        connection.execute(delete(owners).where(owners.c.id == owner_id))
    return counts | {"keys": len(key_ids)}


def _jobs(connection: Connection, owner_id: int, gone: Callable[[Sequence[str]], None]) -> int:
    some = select(jobs.c.id).where(jobs.c.owner_id == owner_id).limit(_ROWS)
    # one that a worker writes to just now is passed over, and goes with the owner
    ids = connection.execute(some.with_for_update(skip_locked=True)).scalars().all()
    training.forget_all(connection, ids)
    connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    gone(ids)
    return len(ids)


def _models(connection: Connection, owner_id: int) -> int:
    mine = select(model_versions.c.name).where(model_versions.c.owner_id == owner_id).distinct()
    names = connection.execute(mine.limit(_ROWS)).scalars().all()
    for name in names:
        files.loosen(connection, published.remove(connection, name))
    return len(names)


def _rows(database: Database, table: Table, which: ColumnElement[bool]) -> int:
    key = tuple_(*table.primary_key)
    some = delete(table).where(key.in_(select(*table.primary_key).where(which).limit(_ROWS)))
    return _all(database, lambda connection: connection.execute(some).rowcount)


def _all(database: Database, step: Callable[[Connection], int]) -> int:
    """Take steps of a transaction each until one finds less than it may take; return how many they took."""
    total, took = 0, _ROWS
    while took == _ROWS:
        with database.transaction() as connection:
            took = step(connection)
        total += took
    return total
