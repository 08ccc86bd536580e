"""A plain SQL loop that repairs what others left: expired leases, lost doorbells. Works without Redis."""

import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import structlog
from sqlalchemy import Connection, Select, and_, delete, func, or_, select

from jobs import (
    batch_pruning,
    batches,
    creates,
    files,
    finetunes,
    lifecycle,
    logs,
    outbox,
    settings,
    training,
)
from jobs.catalog import forget_silent_workers
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.queue import Chore, QueueName, make_signals
from jobs.signals import Signals
from jobs.states import State
from jobs.tables import jobs

log = structlog.get_logger(__name__)

_UNSTORED = timedelta(minutes=10)  # a `store: false` job: as long as a retry is answered with it
_UNSERVED = timedelta(days=1)  # a job for a model that no worker offers any more
_BATCH = 1000  # rows of one DELETE, so that no lock is held for long

_CHORES: dict[Chore, Callable[[Connection], bool]] = {
    Chore.VALIDATE: files.is_unvalidated,
    Chore.FINETUNES: finetunes.any_ready,
    Chore.BATCHES: batches.is_due,
    Chore.DELIVER: outbox.any_due,
}
"""What tells whether rows wait for a chore; whoever wrote them has rung already, but bells get lost."""


def sweep(database: Database, signals: Signals, retention: timedelta, trust_leases: bool = True) -> None:
    """One round. Harmless if two sweepers run, harmless if none runs for a while."""
    with database.transaction() as connection:
        moved = lifecycle.recover_lost(connection) if trust_leases else {}
    with database.transaction() as connection:  # apart: this may take long, and what was lost must not wait
        forget_silent_workers(connection)
        unserved = lifecycle.fail_unserved(connection, QueueName.GENERATE, _UNSERVED)
    with database.transaction() as connection:  # after the commit: who hears the bell must see the rows
        waiting = ring_for_waiting(connection, signals)
        for chore, is_due in _CHORES.items():
            if is_due(connection):
                signals.ring(chore)
        if is_prunable(connection, retention):
            signals.ring(Chore.PRUNE)
    if moved:
        log.warning("recovered lost jobs", **{str(state): count for state, count in moved.items()})
    if unserved:
        log.warning("failed jobs whose model is gone", jobs=unserved)
    log.debug("swept", waiting=waiting)


def ring_for_waiting(connection: Connection, signals: Signals) -> list[str]:
    """Ring for every queue that has work due: retries, and any doorbell that got lost."""
    due = and_(jobs.c.state == State.QUEUED, jobs.c.available_at <= func.now(), jobs.c.paused_at.is_(None))
    queues = list(connection.execute(select(jobs.c.queue).where(due).distinct()).scalars())
    for queue in queues:
        signals.ring(queue)
    return queues


def is_prunable(connection: Connection, retention: timedelta) -> bool:
    """Whether any finished job is past its time, or what was kept to know a repeated create."""
    expired = connection.execute(_expired(retention).limit(1)).first() is not None
    expired = expired or batch_pruning.is_prunable(connection, _UNSTORED, retention)
    expired = expired or files.is_prunable(connection)
    return expired or creates.is_prunable(connection) or outbox.is_prunable(connection)


def prune(database: Database, retention: timedelta) -> int:
    """Delete the finished jobs that are past their time, with their events; return how many."""
    total = 0
    while True:
        with database.transaction() as connection:
            batch = _expired(retention).limit(_BATCH).with_for_update(skip_locked=True)
            ids = connection.execute(batch).scalars().all()
            training.forget_all(connection, ids)
            gone = connection.execute(delete(jobs).where(jobs.c.id.in_(ids))).rowcount
        total += gone
        if gone < _BATCH:
            return total + batch_pruning.prune(database, _UNSTORED, retention)


def _expired(retention: timedelta) -> Select[Any]:
    kept_until, unstored_until = func.now() - retention, func.now() - _UNSTORED
    due = or_(jobs.c.finished_at < kept_until, ~jobs.c.stored & (jobs.c.finished_at < unstored_until))
    return select(jobs.c.id).where(due, jobs.c.batch_id.is_(None))  # lines go with their batch


def main() -> None:
    """Sweep until told to stop, about every fifth of a lease, so that no job waits long past its lease."""
    config = settings.read()
    logs.configure("sweeper", config.log_level)
    database, signals = Database(config.database, connections=1), make_signals(config)
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("ready")
    trust_leases_from = 0.0
    while not stopped.wait(min(5.0, config.lease_seconds / 6) * random.uniform(0.8, 1.2)):
        try:
            trust_leases = time.monotonic() >= trust_leases_from
            sweep(database, signals, timedelta(days=config.retention_days), trust_leases)
        except DatabaseUnavailable as error:
            # nobody could renew a lease meanwhile: those who live get one lease of time to do so
            trust_leases_from = time.monotonic() + config.lease_seconds
            log.warning("database is out of reach", error=str(error))
    signals.close()
    database.close()


if __name__ == "__main__":
    main()
