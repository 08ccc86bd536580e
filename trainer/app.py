"""The trainer's entry: hears the doorbell of the `train` queue."""

import structlog

from jobs import logs, settings
from jobs.queue import DOORBELLS, QueueName, make_celery

log = structlog.get_logger(__name__)

config = settings.read()
logs.configure("trainer", config.log_level)
celery = make_celery(config)


@celery.task(name=DOORBELLS[QueueName.TRAIN])  # type: ignore[untyped-decorator]
def drain() -> None:
    """Somebody rang. No kind of job is accepted for this queue yet, so there is nothing to claim."""
    log.info("rung")
