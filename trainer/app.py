"""The trainer's entry: runs one fine-tune at a time, each in a process of its own, until told to stop.

main thread    Celery: hears doorbells and signals
desk           SQL: claims, and settles; runs the attempt, or joins that of another host
keeper         SQL: the lease, cancels and pauses
listener       Redis: hints
surveyor       measures what this host can do, then repeats it every minute
exporter       exports, beside all that (see trainer/exporter.py)
"""

import os
import random
import threading
from datetime import timedelta
from functools import partial

import structlog
from celery.signals import worker_shutting_down

from jobs import execution, lifecycle, logs, outbox, settings, training
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob, Ending
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.queue import DOORBELLS, QUIET, Chore, QueueName, make_celery, make_signals
from jobs.settings import Settings
from jobs.signals import CANCELLED, ENDED, Listener
from jobs.states import FINAL
from trainer.attempt import Attempt, Wish
from trainer.child import Child
from trainer.exporter import Exporter
from trainer.joiner import Joiner
from trainer.keeper import Keeper
from trainer.surveyor import Surveyor
from trainer.workplace import Workplace

log = structlog.get_logger(__name__)

_POLL_SECONDS = 1.0  # a doorbell may get lost; nobody waits longer than this for one
_RETRY_SECONDS = 1.0
_COMMIT_SECONDS = 2.0  # for the last commit, after the drain


class Trainer:
    """Every thread of the process, and the order in which they start and stop."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._database = Database(config.database, connections=3)
        self._signals = make_signals(config)
        self._store = ArtifactStore(config.artifacts)
        self._surveyor = Surveyor(config, Database(config.database, connections=1))
        self._workplace = Workplace(config, self._database, self._store, self._surveyor.device)
        beats = Database(config.database, connections=1, statement_seconds=config.heartbeat_seconds)
        self._keeper = Keeper(beats, config.lease, timedelta(seconds=config.heartbeat_seconds))
        self._exporter = Exporter(config)
        self._attempt: Attempt | None = None
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._joiner = Joiner(config, self._database, self._workplace)
        work = self._run if config.trainer_node == 0 else self._joiner.run
        self._desk = threading.Thread(target=work, name="desk", daemon=True)

    def start(self) -> None:
        """Start every thread but Celery's."""
        self._listener = Listener(self._config.redis, CANCELLED, self._keeper.hear)
        threading.Thread(target=self._keeper.run, name="keeper", daemon=True).start()
        threading.Thread(target=self._surveyor.run, name="surveyor", daemon=True).start()
        self._exporter.start()
        self._desk.start()

    def wake(self) -> None:
        """Somebody rang: there is work to claim."""
        self._awake.set()

    def wake_exporter(self) -> None:
        """The same, of exports."""
        self._exporter.wake()

    def stop(self) -> None:
        """Let the training save a checkpoint, hand it back uncharged, and end every thread."""
        drain = self._config.drain.total_seconds()
        self._stopping.set()
        self._awake.set()
        self._joiner.stop()
        if (attempt := self._attempt) is not None:
            attempt.wish(Wish.STOP, drain)
        self._exporter.stop()
        self._desk.join(drain + _COMMIT_SECONDS)
        self._exporter.close()
        self._keeper.stop()
        self._surveyor.stop()
        self._listener.close()
        self._signals.close()

    def _run(self) -> None:
        """Claim, train, settle; sleep until woken."""
        while not self._stopping.is_set():
            try:
                job = self._claim()
            except DatabaseUnavailable as error:
                log.warning("cannot claim, database is out of reach", error=str(error))
                job = None
            if job is None:
                self._awake.wait(_POLL_SECONDS * random.uniform(0.8, 1.2))
                self._awake.clear()
            else:
                self._work(job)

    def _claim(self) -> ClaimedJob | None:
        with self._database.transaction() as connection:
            return lifecycle.claim_any(connection, QueueName.TRAIN, self._config.worker, self._config.lease)

    def _work(self, job: ClaimedJob) -> None:
        log.info("training begins", job_id=job.claim.job_id, attempt=job.claim.attempt)
        start = partial(Child, config=self._config)
        gathers = self._config.trainer_nnodes > 1
        attempt = Attempt(job, self._database, self._store, self._workplace, start, gathers)
        self._attempt = attempt
        self._keeper.keep(attempt)
        if self._stopping.is_set():  # it was claimed while `stop` looked for one
            attempt.wish(Wish.STOP, 0)
        try:
            outcome = attempt.run()
            if outcome is not None:
                self._settle(execution.ending(job, outcome, self._config.max_failures))
        finally:
            self._keeper.keep(None)
            self._attempt = None
        self._tell(job)

    def _settle(self, ending: Ending) -> None:
        """Write how it ended, again and again while the database is away: the keeper holds the lease."""
        while True:
            try:
                with self._database.transaction() as connection:
                    settled = lifecycle.settle(connection, [ending])
                if ending.claim not in settled:
                    log.warning("result dropped, lease lost", job_id=ending.claim.job_id)
                return
            except DatabaseUnavailable as error:
                log.warning("the result waits for the database", error=str(error))
                if self._stopping.wait(_RETRY_SECONDS):
                    return

    def _tell(self, job: ClaimedJob) -> None:
        """Ring for whoever waits for the end, and clear up after a job that has ended."""
        job_id = job.claim.job_id
        try:
            with self._database.transaction() as connection:
                final = lifecycle.state_of(connection, job_id) in FINAL
                if final:
                    training.drop_states(connection, job_id)
                due = outbox.any_due(connection)
            self._workplace.prune()
        except DatabaseUnavailable as error:
            log.warning("cannot look at how a job ended", error=str(error))
            return
        log.info("training ended", job_id=job_id, final=final)
        if final:
            self._signals.hint(ENDED, [job_id])
        if due:
            self._signals.ring(Chore.DELIVER)


def _end_process(crash: threading.ExceptHookArgs) -> None:
    """A thread that died leaves half a trainer: end all of it, and let the supervisor start a whole one."""
    log.error("thread died", thread=crash.thread and crash.thread.name, exc_info=crash.exc_value)
    os._exit(1)


def main() -> None:
    """Run until SIGTERM: claim, train, hand back."""
    threading.excepthook = _end_process
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
    trainer.start()
    try:
        celery.worker_main(
            ["--quiet", "worker", "--queues", queues, "-n", f"trainer@{config.worker}", *QUIET]
        )
    finally:
        trainer.stop()


if __name__ == "__main__":
    main()
