"""The trainer's entry: runs one fine-tune at a time, each in a process of its own, until told to stop.

main thread    Celery: hears doorbells and signals
desk           claims, runs and settles fine-tunes (see trainer/desk.py), or joins those of another host
exporter       a desk for exports
surveyor       measures what this host can do, then repeats it every minute
"""

import threading
from functools import partial

import structlog
from celery.signals import worker_shutting_down
from sqlalchemy import Connection

from jobs import logs, prometheus, settings, threads, training
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.queue import DOORBELLS, QUIET, QueueName, make_celery
from jobs.settings import Settings
from trainer.attempt import Attempt
from trainer.child import Child
from trainer.desk import Desk
from trainer.exporter import Exporter
from trainer.joiner import Joiner
from trainer.surveyor import Surveyor
from trainer.workplace import Workplace

log = structlog.get_logger(__name__)

_COMMIT_SECONDS = 2.0  # for the last commit, after the drain


class Trainer:
    """Every thread of the process, and the order in which they start and stop."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._database = Database(config.database, connections=2)
        self._store = ArtifactStore(config.artifacts)
        self._surveyor = Surveyor(config, Database(config.database, connections=1))
        self._workplace = Workplace(config, self._database, self._store, self._surveyor.device)
        self._joiner = Joiner(config, self._database, self._workplace)
        self._desk = Desk(config, QueueName.TRAIN, self._begin, self._ended)
        self._exporter = Exporter(config)

    def start(self) -> None:
        """Start every thread but Celery's."""
        threading.Thread(target=self._surveyor.run, name="surveyor", daemon=True).start()
        self._exporter.start()
        if self._config.trainer_node == 0:
            self._desk.start()
        else:
            self._joiner.start()

    def wake(self) -> None:
        """Somebody rang: there is a fine-tune to claim."""
        self._desk.wake()

    def wake_exporter(self) -> None:
        """The same, of exports."""
        self._exporter.wake()

    def stop(self) -> None:
        """Let the training save a checkpoint, hand it back uncharged, and end every thread."""
        drain = self._config.drain.total_seconds()
        self._exporter.stop()
        if self._config.trainer_node == 0:
            self._desk.stop(drain)
            self._desk.close(drain + _COMMIT_SECONDS)
        else:
            self._joiner.stop(drain)
        self._exporter.close()
        self._surveyor.stop()

    def _begin(self, job: ClaimedJob) -> Attempt:
        start = partial(Child, config=self._config)
        gathers = self._config.trainer_nnodes > 1
        return Attempt(job, self._database, self._store, self._workplace, start, gathers)

    def _ended(self, connection: Connection, job_id: str) -> None:
        training.drop_states(connection, job_id)
        self._workplace.prune()


def main() -> None:
    """Run until SIGTERM: claim, train, hand back."""
    threading.excepthook = threads.end_process
    config = settings.read()
    logs.configure("trainer", config.log_level)
    trainer = Trainer(config)
    celery = make_celery(config)

    @celery.task(name=DOORBELLS[QueueName.TRAIN])  # type: ignore[untyped-decorator]
    def drain() -> None:
        """Somebody rang. Returns at once: the desk claims from SQL, and would have looked within a second."""
        trainer.wake()

    @celery.task(name=DOORBELLS[QueueName.EXPORT])  # type: ignore[untyped-decorator]
    def export() -> None:
        """As `drain`, for the exporter."""
        trainer.wake_exporter()

    queues = f"{QueueName.TRAIN},{QueueName.EXPORT}"
    worker_shutting_down.connect(lambda **_: log.info("stopping"), weak=False)
    prometheus.serve("trainer", config)
    trainer.start()
    try:
        celery.worker_main(
            ["--quiet", "worker", "--queues", queues, "-n", f"trainer@{config.worker}", *QUIET]
        )
    finally:
        trainer.stop()


if __name__ == "__main__":
    main()
