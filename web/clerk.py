"""The Celery tasks for short work, in a process of their own, apart from the engine."""

from datetime import timedelta

import structlog

from jobs import logs, settings, sweeper
from jobs.database import Database
from jobs.queue import Chore, make_celery

log = structlog.get_logger(__name__)

config = settings.read()
logs.configure("clerk", config.log_level)
celery = make_celery(config)
celery.conf.worker_concurrency = len(Chore)  # one may wait for a slow target while the others go on
_database = Database(config.database, connections=len(Chore), statement_seconds=60)


@celery.task(name=Chore.PRUNE)  # type: ignore[untyped-decorator]
def prune() -> None:
    """Delete what is past its retention. The rows say what is due, so this may be lost or doubled."""
    gone = sweeper.prune(_database, timedelta(days=config.retention_days))
    if gone:
        log.info("pruned finished jobs", jobs=gone)
