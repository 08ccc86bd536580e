"""What ended batches leave in SQL goes in time: their lines soon, the rest after the retention."""

from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select, tuple_, update

from jobs.batches import is_open
from jobs.database import Database
from jobs.tables import batch_refusals, batches, jobs

_ROWS = 1000  # of one DELETE, so that no lock is held for long


def is_prunable(connection: Connection, lines_kept: timedelta, retention: timedelta) -> bool:
    """Whether `prune` would delete anything."""
    found = select(batches.c.id).where(or_(_has_old_lines(lines_kept), _is_old(retention)))
    return connection.execute(found.limit(1)).first() is not None


def prune(database: Database, lines_kept: timedelta, retention: timedelta) -> int:
    """Delete the lines of batches that ended so long ago, whose files say what they said; return how many.

    Batches past the retention go too.
    """
    with database.transaction() as connection:
        ids = connection.execute(select(batches.c.id).where(_has_old_lines(lines_kept))).scalars().all()
    total = sum(drop_lines(database, batch_id) for batch_id in ids)
    _delete(database, batches, _is_old(retention), ~batches.c.has_lines)
    return total


def drop_lines(database: Database, batch_id: str) -> int:
    """Delete the jobs of a batch's lines, and its refusals; return how many jobs."""
    total = _delete(database, jobs, jobs.c.batch_id == batch_id)
    _delete(database, batch_refusals, batch_refusals.c.batch_id == batch_id)
    with database.transaction() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(has_lines=False))
    return total


def _delete(database: Database, table: Table, *where: ColumnElement[bool]) -> int:
    """A thousand rows at a time, each in a transaction of its own; return how many."""
    key = tuple_(*table.primary_key)
    some = delete(table).where(key.in_(select(*table.primary_key).where(*where).limit(_ROWS)))
    total, gone = 0, _ROWS
    while gone == _ROWS:
        with database.transaction() as connection:
            gone = connection.execute(some).rowcount
        total += gone
    return total


def _has_old_lines(kept: timedelta) -> ColumnElement[bool]:
    return and_(batches.c.has_lines, _is_old(kept))


def _is_old(age: timedelta) -> ColumnElement[bool]:
    """Whether it ended so long ago."""
    table = batches.c
    ended = func.coalesce(table.completed_at, table.cancelled_at, table.failed_at, table.expired_at)
    return and_(~is_open(), ended < func.now() - age)
