"""The Celery tasks for short work, in a process of their own, apart from the engine."""

from datetime import timedelta

import structlog

from jobs import logs, settings, sweeper
from jobs.database import Database
from jobs.queue import make_celery

log = structlog.get_logger(__name__)

config = settings.read()
logs.configure("clerk", config.log_level)
celery = make_celery(config)
_database = Database(config.database, connections=1, statement_seconds=60)


@celery.task(name="clerk.prune")  # type: ignore[untyped-decorator]
def prune() -> None:
    """Delete what is past its retention. The rows say what is due, so this may be lost or doubled."""
    gone = sweeper.prune(_database, timedelta(days=config.retention_days))
    if gone:
        log.info("pruned finished jobs", jobs=gone)
