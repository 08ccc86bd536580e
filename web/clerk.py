"""The Celery tasks for short work, in a process of their own, apart from the engine."""

from datetime import timedelta

import structlog
from celery.signals import worker_shutting_down

from jobs import creates, files, logs, outbox, settings, sweeper
from jobs.finetunes import settle_waiting
from jobs.queue import Chore, QueueName, make_celery
from web import messenger
from web.batch_chore import BatchChore
from web.desk import Desk
from web.file_validation import ValidationChore

log = structlog.get_logger(__name__)

config = settings.read()
logs.configure("clerk", config.log_level)
celery = make_celery(config)
celery.conf.worker_concurrency = len(Chore)  # one may wait for a slow target while the others go on
_desk = Desk.open(config)
_batches = BatchChore(_desk)
_validation = ValidationChore(_desk)
worker_shutting_down.connect(lambda **_: _validation.stop(), weak=False)


@celery.task(name=Chore.PRUNE)  # type: ignore[untyped-decorator]
def prune() -> None:
    """Delete what is past its retention. The rows say what is due, so this may be lost or doubled."""
    gone = sweeper.prune(_desk.database, timedelta(days=config.retention_days))
    files.prune(_desk.database, _desk.store)
    creates.prune(_desk.database)
    outbox.prune(_desk.database)
    if gone:
        log.info("pruned finished jobs", jobs=gone)


@celery.task(name=Chore.DELIVER)  # type: ignore[untyped-decorator]
def deliver() -> None:
    """Send the webhooks that are due; each has a row, and is sent again until its target takes it."""
    messenger.deliver(_desk.database, config.webhook_allow_private)


@celery.task(name=Chore.BATCHES)  # type: ignore[untyped-decorator]
def batches() -> None:
    """Expand, stop and finalize batches. Their rows say what is due, so this may be lost or doubled."""
    _batches.rung()


@celery.task(name=Chore.VALIDATE)  # type: ignore[untyped-decorator]
def validate() -> None:
    """Read the uploaded files that wait for it. Their rows say so, so this may be lost or doubled."""
    _validation.rung()


@celery.task(name=Chore.FINETUNES)  # type: ignore[untyped-decorator]
def finetunes() -> None:
    """Let the fine-tunes go on whose files are read, fail those whose files are wrong."""
    with _desk.database.transaction() as connection:
        released, failed = settle_waiting(connection)
    if released:
        _desk.signals.ring(QueueName.TRAIN)
    if failed:
        _desk.signals.ring(Chore.DELIVER)
