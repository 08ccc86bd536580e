"""The only way in: the Celery application, its queues, and `enqueue`."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

import psycopg
import redis
import structlog
from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import celeryd_after_setup, setup_logging
from kombu.entity import Queue
from sqlalchemy import Connection

from jobs import bells, predictions, records, submission
from jobs.attempts import NewJob
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.failpoints import failpoint
from jobs.records import JobRecord
from jobs.settings import Settings
from jobs.signals import Signals, connect
from jobs.submission import First

_PREFIX = "penstock:"  # of everything that Celery keeps in Redis
log = structlog.get_logger(__name__)

_DOORBELL_EXPIRES = timedelta(seconds=60)  # by then everybody has looked by themselves


class QueueName(StrEnum):
    """One queue per kind of process that does work."""

    GENERATE = "generate"
    TRAIN = "train"
    EXPORT = "export"
    CLERK = "clerk"


class Chore(StrEnum):
    """Short work of the clerk, each a task of its own; rows say what is due."""

    PRUNE = "clerk.prune"  # delete what is past its retention
    VALIDATE = "clerk.validate"  # read uploaded files
    BATCHES = "clerk.batches"  # expand and finalize batches
    FINETUNES = "clerk.finetunes"  # let fine-tunes go on whose files are read
    DELIVER = "clerk.deliver"  # send webhooks


DOORBELLS = {
    QueueName.GENERATE: "worker.drain",
    QueueName.TRAIN: "trainer.drain",
    QueueName.EXPORT: "trainer.export",
}
"""The task that a bell of one queue names. None has a payload."""


QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
"""For `celery worker`: no chatter between workers, which have nothing to say to each other."""


setup_logging.connect(lambda **_: None, weak=False)  # else Celery lifts the root logger to its --loglevel


def make_celery(settings: Settings) -> Celery:
    """The Celery application: JSON, no results, bounded sockets, and nothing held while work runs."""
    # it warns of root because of pickle, which nobody here accepts
    warnings.filterwarnings("ignore", category=SecurityWarning)
    bells.endure_a_full_redis()
    app = Celery("penstock", broker=_broker_url(settings.redis), task_cls="jobs.bells:Bell")
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_queues=[
            Queue(name, routing_key=name, no_ack=True)  # type: ignore[no-untyped-call]
            for name in QueueName
        ],
        task_create_missing_queues=False,
        task_routes={task: {"queue": queue} for queue, task in DOORBELLS.items()}
        | {chore: {"queue": QueueName.CLERK} for chore in Chore},
        task_publish_retry=False,
        worker_pool="threads",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,  # its mailbox would be a second door
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": _PREFIX,
            # without these a half-open connection silences a worker for ever
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    celeryd_after_setup.connect(partial(_throw_bells_away, settings.redis), weak=False)
    return app


def _throw_bells_away(redis_url: str, instance: Any, **_: object) -> None:
    """Empty the lists that a process is about to hear: it looks for work by itself when it starts, and what
    made Celery end before it, as malformed messages do, would end it again.
    """
    lists = [f"{_PREFIX}{queue}" for queue in instance.app.amqp.queues.consume_from]
    with suppress(redis.RedisError, OSError), connect(redis_url) as client:
        client.delete(*lists)


def make_signals(settings: Settings) -> Signals:
    """The process's voice and ear on Redis."""
    app = make_celery(settings)

    def knock(bell: str) -> None:
        task = bell if bell in set(Chore) else DOORBELLS[QueueName(bell)]
        app.send_task(task, queue=_queue_of(bell), expires=_DOORBELL_EXPIRES.total_seconds(), retry=False)

    return Signals(settings.redis, knock, _queue_of)


def _queue_of(bell: str) -> str:
    return QueueName.CLERK if bell in set(Chore) else bell


Once = Callable[[Connection, Callable[[], JobRecord]], JobRecord]
"""Calls what writes the job, or returns the job of an earlier request instead; or raises."""


def enqueue(
    database: Database,
    signals: Signals,
    job: NewJob,
    once: Once = lambda _connection, write: write(),
) -> JobRecord:
    """Accept a job: commit its row, then ring; return it as its owner sees it. The bell may be lost.

    Raises:
        DatabaseUnavailable: nothing was accepted.
    """

    def write() -> JobRecord:
        return submission.submit(connection, job)

    with database.transaction() as connection:
        record = once(connection, write)
    failpoint("before_bell")
    if record.id != job.id:
        return record
    [record] = _placed(database, [record])
    signals.ring(job.queue)
    return record


def enqueue_group(
    database: Database,
    signals: Signals,
    wanted: Sequence[First],
    committing: Callable[[], None] = lambda: None,
) -> list[JobRecord | None]:
    """Accept jobs that came at the same time, as `enqueue` does one: with one commit, and one ring.

    `committing` is called when only the disk is waited for. None stands for a job that nobody waits for any
    more, which is not accepted.

    Raises:
        DatabaseUnavailable: none was accepted.
    """
    waited_for, made = wanted, _submitted(database, wanted, committing)
    while made is None:
        waited_for = [one for one in waited_for if not one.gone()]
        made = _submitted(database, waited_for, committing) if waited_for else []
    failpoint("before_bell")
    made = _placed(database, made)
    for queue in {one.job.queue for one in waited_for}:
        signals.ring(queue)
    by_id = {record.id: record for record in made}
    return [by_id.get(one.job.id) for one in wanted]


def _placed(database: Database, accepted: list[JobRecord]) -> list[JobRecord]:
    """With their places among all that are committed by now; without them if PostgreSQL has gone since."""
    try:
        with database.driver() as connection:
            accepted = records.placed(connection, accepted)
            predictions.note(connection, accepted)
    except DatabaseUnavailable as error:
        log.warning("accepted jobs go without their places", error=str(error))
    return accepted


def _submitted(
    database: Database, wanted: Sequence[First], committing: Callable[[], None]
) -> list[JobRecord] | None:
    """None, and nothing is written, where one of them is not waited for any more."""
    accepted: list[JobRecord] = []
    with database.driver() as connection, connection.transaction():
        made = submission.submit_group(connection, wanted)
        # looked at under the locks: a retry that comes later waits for them, and finds what is written here
        if any(one.gone() for one in wanted):
            raise psycopg.Rollback
        accepted = made
        committing()
    return accepted or None


def _broker_url(redis_url: str) -> str:
    """Kombu's spelling of a redis-py URL."""
    if not redis_url.startswith("unix://"):
        return redis_url
    return redis_url.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=")
