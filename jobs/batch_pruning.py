"""What ended batches leave in SQL goes in time: their lines soon, the rest after the retention."""

from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

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
    total = sum(_prune_lines(database, batch_id) for batch_id in ids)
    with database.transaction() as connection:
        connection.execute(delete(batches).where(_is_old(retention), ~batches.c.has_lines))
    return total


def _prune_lines(database: Database, batch_id: str) -> int:
    total, gone = 0, _ROWS
    lines = select(jobs.c.id).where(jobs.c.batch_id == batch_id).limit(_ROWS)
    while gone == _ROWS:
        with database.transaction() as connection:
            gone = connection.execute(delete(jobs).where(jobs.c.id.in_(lines))).rowcount
        total += gone
    with database.transaction() as connection:
        connection.execute(delete(batch_refusals).where(batch_refusals.c.batch_id == batch_id))
        connection.execute(update(batches).where(batches.c.id == batch_id).values(has_lines=False))
    return total


def _has_old_lines(kept: timedelta) -> ColumnElement[bool]:
    return and_(batches.c.has_lines, _is_old(kept))


def _is_old(age: timedelta) -> ColumnElement[bool]:
    """Whether it ended so long ago."""
    table = batches.c
    ended = func.coalesce(table.completed_at, table.cancelled_at, table.failed_at, table.expired_at)
    return and_(~is_open(), ended < func.now() - age)
