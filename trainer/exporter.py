"""Runs exports beside a fine-tune, one at a time: they are short, and nobody shall wait hours for one.

exporter   SQL: claims, and settles; runs the export
keeper     SQL: the lease, and cancels
listener   Redis: hints
"""

import random
import shutil
import threading
from datetime import timedelta

import structlog
from sqlalchemy import select

from jobs import execution, lifecycle, records
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob, Ending
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.queue import QueueName, make_signals
from jobs.settings import Settings
from jobs.signals import CANCELLED, ENDED, Listener
from jobs.states import State
from jobs.tables import jobs
from trainer.attempt import Wish
from trainer.export_attempt import Export
from trainer.keeper import Keeper

log = structlog.get_logger(__name__)

_POLL_SECONDS = 1.0  # a doorbell may get lost; nobody waits longer than this for one
_RETRY_SECONDS = 1.0
_STOP_SECONDS = 3.0  # to kill a process and hand its job back


class Exporter:
    """Its threads, and the order in which they start and stop."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._root = config.var_dir / "trainer" / "exports"
        self._database = Database(config.database, connections=2)
        self._store = ArtifactStore(config.artifacts)
        self._signals = make_signals(config)
        beats = Database(config.database, connections=1, statement_seconds=config.heartbeat_seconds)
        self._keeper = Keeper(beats, config.lease, timedelta(seconds=config.heartbeat_seconds))
        self._export: Export | None = None
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exporter", daemon=True)

    def start(self) -> None:
        """Start every thread."""
        self._listener = Listener(self._config.redis, CANCELLED, self._keeper.hear)
        threading.Thread(target=self._keeper.run, name="export-keeper", daemon=True).start()
        self._thread.start()

    def wake(self) -> None:
        """Somebody rang: there is work to claim."""
        self._awake.set()

    def stop(self) -> None:
        """Begin to hand back what runs, uncharged."""
        self._stopping.set()
        self._awake.set()
        if (export := self._export) is not None:
            export.wish(Wish.STOP)

    def close(self) -> None:
        """After `stop`, end every thread."""
        self._thread.join(_STOP_SECONDS)
        self._keeper.stop()
        self._listener.close()
        self._signals.close()
        if not self._thread.is_alive():
            self._database.close()

    def _run(self) -> None:
        """Claim, export, settle; sleep until woken."""
        self._prune()
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
            return lifecycle.claim_any(connection, QueueName.EXPORT, self._config.worker, self._config.lease)

    def _work(self, job: ClaimedJob) -> None:
        job_id = job.claim.job_id
        log.info("export begins", job_id=job_id, attempt=job.claim.attempt)
        self._export = Export(job, self._database, self._store, self._config, self._root / job_id)
        self._keeper.keep(self._export)
        if self._stopping.is_set():  # it was claimed while `stop` looked for one
            self._export.wish(Wish.STOP)
        try:
            outcome = self._export.run()
            if outcome is not None:
                self._settle(execution.ending(job, outcome, self._config.max_failures))
        finally:
            self._keeper.keep(None)
            self._export = None
        log.info("export ended", job_id=job_id)
        self._tell(job_id)

    def _settle(self, ending: Ending) -> None:
        """Write how it ended, again and again while the database is away: the keeper holds the lease."""
        while True:
            try:
                with self._database.transaction() as connection:
                    if ending.claim not in lifecycle.settle(connection, [ending]):
                        log.warning("export dropped, lease lost", job_id=ending.claim.job_id)
                return
            except DatabaseUnavailable as error:
                log.warning("the export's end waits for the database", error=str(error))
                if self._stopping.wait(_RETRY_SECONDS):
                    return

    def _tell(self, job_id: str) -> None:
        """Wake whoever waits for the end, if this is one."""
        try:
            with self._database.transaction() as connection:
                ended = records.ended(connection, [job_id])
        except DatabaseUnavailable as error:
            log.warning("cannot look at how an export ended", error=str(error))
            return
        if ended:
            self._signals.hint(ENDED, [job_id])

    def _prune(self) -> None:
        """Remove what a trainer left here that was killed."""
        here = {path.name for path in self._root.glob("export-*")}
        running = select(jobs.c.id).where(jobs.c.id.in_(here), jobs.c.state == State.RUNNING)
        try:
            with self._database.transaction() as connection:
                kept = set(connection.execute(running).scalars())
        except DatabaseUnavailable as error:
            log.warning("what is left of exports is removed at the next start", error=str(error))
            return
        for name in here - kept:
            shutil.rmtree(self._root / name, ignore_errors=True)
