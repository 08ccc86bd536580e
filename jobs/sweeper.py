"""A plain SQL loop that repairs what others left: expired leases, lost doorbells. Works without Redis."""

import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType

import structlog
from sqlalchemy import Connection, and_, bindparam, func, literal_column, select

from jobs import (
    batches,
    files,
    finetunes,
    gauges,
    lifecycle,
    logs,
    outbox,
    prometheus,
    pruning,
    settings,
)
from jobs.catalog import forget_silent_workers
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.queue import Chore, QueueName, make_signals
from jobs.signals import ENDED, Signals
from jobs.states import State
from jobs.tables import jobs
from jobs.watcher import Watcher

log = structlog.get_logger(__name__)

_UNSERVED = timedelta(days=1)  # a job for a model that no worker offers any more
_ROWS = 1000  # that one transaction fails, so that no lock is held for long
_PRUNE_SECONDS = 3600.0
_ROUNDS = 20  # of those in one sweep: who lost a lease must not wait

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
    overdue = fail_overdue(database, signals)
    with database.transaction() as connection:  # after the commit: who hears the bell must see the rows
        waiting = ring_for_waiting(connection, signals)
        for chore, is_due in _CHORES.items():
            if is_due(connection):
                signals.ring(chore)
        if pruning.is_prunable(connection, retention):
            signals.ring(Chore.PRUNE)
    gauges.RECOVERED.inc(sum(moved.values()))
    gauges.POISONED.inc(moved.get(State.FAILED, 0))
    gauges.UNSERVED.inc(unserved)
    if moved:
        log.warning("recovered lost jobs", **{str(state): count for state, count in moved.items()})
    if unserved:
        log.warning("failed jobs whose model is gone", jobs=unserved)
    if overdue:
        log.info("failed jobs whose deadline has passed", jobs=overdue)
    log.debug("swept", waiting=waiting)


def fail_overdue(database: Database, signals: Signals) -> int:
    """Fail the jobs that no worker could begin in time, and tell who waits for them; return how many."""
    total = 0
    for _ in range(_ROUNDS):
        with database.transaction() as connection:
            failed = lifecycle.fail_overdue(connection, _ROWS)
        if failed:
            signals.hint(ENDED, failed)
        gauges.OVERDUE.inc(len(failed))
        total += len(failed)
        if len(failed) < _ROWS:
            break
    return total


def ring_for_waiting(connection: Connection, signals: Signals) -> list[str]:
    """Ring for every queue that has work due: retries, and any doorbell that got lost."""
    # a bound state would hide the queue's index; of each queue one is looked for, however many wait
    due = and_(jobs.c.state == literal_column("'queued'"), jobs.c.available_at <= func.now())
    due = and_(due, jobs.c.paused_at.is_(None), jobs.c.queue == bindparam("queue"))
    one = select(jobs.c.id).where(due).limit(1)
    queues = [str(name) for name in QueueName if connection.execute(one, {"queue": str(name)}).first()]
    for queue in queues:
        signals.ring(queue)
    return queues


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
    watcher = Watcher(config.database)
    watcher.start()
    prometheus.serve("sweeper", config)
    log.info("ready")
    trust_leases_from = prune_at = 0.0
    while not stopped.wait(min(5.0, config.lease_seconds / 6) * random.uniform(0.8, 1.2)):
        try:
            trust_leases = time.monotonic() >= trust_leases_from
            sweep(database, signals, timedelta(days=config.retention_days), trust_leases)
            if time.monotonic() >= prune_at:
                signals.ring(Chore.PRUNE)  # what no row tells of is looked for, too
                prune_at = time.monotonic() + _PRUNE_SECONDS
        except DatabaseUnavailable as error:
            # nobody could renew a lease meanwhile: those who live get one lease of time to do so
            trust_leases_from = time.monotonic() + config.lease_seconds
            log.warning("database is out of reach", error=str(error))
    watcher.stop()
    signals.close()
    database.close()


if __name__ == "__main__":
    main()
