"""Runs exports beside a fine-tune, one at a time: they are short, and nobody shall wait hours for one."""

import shutil

import structlog
from sqlalchemy import select

from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.queue import QueueName
from jobs.settings import Settings
from jobs.states import State
from jobs.tables import jobs
from trainer.desk import Desk
from trainer.export_attempt import Export

log = structlog.get_logger(__name__)

_STOP_SECONDS = 3.0  # to kill a process and hand its job back


class Exporter:
    """A desk of its own for exports."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._root = config.var_dir / "trainer" / "exports"
        self._database = Database(config.database, connections=2)
        self._store = ArtifactStore(config.artifacts)
        self._desk = Desk(config, QueueName.EXPORT, self._begin)

    def start(self) -> None:
        """Remove what is left of exports that were killed, and start every thread."""
        self._prune()
        self._desk.start()

    def wake(self) -> None:
        """Somebody rang: there is work to claim."""
        self._desk.wake()

    def stop(self) -> None:
        """Begin to hand back what runs, uncharged."""
        self._desk.stop(0)

    def close(self) -> None:
        """After `stop`, end every thread."""
        self._desk.close(_STOP_SECONDS)
        self._database.close()

    def _begin(self, job: ClaimedJob) -> Export:
        return Export(job, self._database, self._store, self._config, self._root / job.claim.job_id)

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
