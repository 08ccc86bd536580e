"""The Celery tasks for short work, in a process of their own, apart from the engine."""

import threading
from datetime import timedelta

from celery.signals import worker_init, worker_shutting_down

from jobs import logs, prometheus, settings
from jobs.queue import Chore, make_celery
from web import batch_chore, file_validation, fine_tuning_review, messenger, retention
from web.alone import Alone
from web.desk import Desk

config = settings.read()
logs.configure("clerk", config.log_level)
celery = make_celery(config)
celery.conf.worker_concurrency = len(Chore) + 1  # one may wait for a slow target while the others go on
_desk = Desk.open(config)
_stopping = threading.Event()
_batches = Alone(lambda: batch_chore.work(_desk))
_validation = Alone(lambda: file_validation.work(_desk, _stopping.is_set))
_small_reviews = Alone(lambda: fine_tuning_review.work(_desk, False, _stopping.is_set))
_large_reviews = Alone(lambda: fine_tuning_review.work(_desk, True, _stopping.is_set))
_delivery = Alone(lambda: messenger.deliver(_desk.database, config.webhook_allow_private))
_pruning = Alone(retention.Pruner(_desk, timedelta(days=config.retention_days)).prune)
worker_shutting_down.connect(lambda **_: _stopping.set(), weak=False)
worker_init.connect(lambda **_: prometheus.serve("clerk", config), weak=False)


@celery.task(name=Chore.PRUNE)  # type: ignore[untyped-decorator]
def prune() -> None:
    """Delete what is past its retention. The rows say what is due, so this may be lost or doubled."""
    _pruning.rung()


@celery.task(name=Chore.DELIVER)  # type: ignore[untyped-decorator]
def deliver() -> None:
    """Send the webhooks that are due; each has a row, and is sent again until its target takes it."""
    _delivery.rung()


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
    """Read the files of fine-tunes that wait for it. Their rows say so, so this may be lost or doubled."""
    _small_reviews.rung()
    _large_reviews.rung()  # while it reads, another bell finds the thread for the small ones
