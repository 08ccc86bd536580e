"""What is past its retention goes from SQL, a thousand rows at a time."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select

from jobs import batch_pruning, creates, files, outbox, training
from jobs.database import Database
from jobs.tables import jobs

_UNSTORED = timedelta(minutes=10)  # a `store: false` job: as long as a retry is answered with it
_ROWS = 1000  # of one DELETE, so that no lock is held for long


def is_prunable(connection: Connection, retention: timedelta) -> bool:
    """Whether any finished job is past its time, or what was kept to know a repeated create."""
    due = any(connection.execute(query.limit(1)).first() is not None for query in _expired(retention))
    due = due or batch_pruning.is_prunable(connection, _UNSTORED, retention) or files.is_prunable(connection)
    return due or creates.is_prunable(connection) or outbox.is_prunable(connection)


def prune(
    database: Database, retention: timedelta, gone: Callable[[Sequence[str]], None] = lambda ids: None
) -> int:
    """Delete the finished jobs that are past their time, with their events; return how many.

    `gone` hears the ids of each thousand once they are deleted.
    """
    total = sum(_prune(database, query, gone) for query in _expired(retention))
    return total + batch_pruning.prune(database, _UNSTORED, retention)


def _prune(database: Database, query: Select[Any], gone: Callable[[Sequence[str]], None]) -> int:
    total, count = 0, _ROWS
    while count == _ROWS:
        with database.transaction() as connection:
            ids = connection.execute(query.limit(_ROWS).with_for_update(skip_locked=True)).scalars().all()
            training.forget_all(connection, ids)
            connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
        gone(ids)
        count = len(ids)
        total += count
    return total


def _expired(retention: timedelta) -> tuple[Select[Any], Select[Any]]:
    """Those past the retention, and those that nobody stores: two queries, as each has an index that ends it
    after a thousand rows. The lines of a batch go with it.
    """
    ended = jobs.c.finished_at
    alone = select(jobs.c.id).where(jobs.c.batch_id.is_(None)).order_by(ended)
    old = alone.where(ended < func.now() - retention)
    return old, alone.where(~jobs.c.stored, ended < func.now() - _UNSTORED)
