"""On the second and further hosts of a training: joins what the first host's trainer has claimed."""

import threading

import structlog

from jobs import training
from jobs.attempts import Claim
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, JobError, StorageFailed
from jobs.settings import Settings
from jobs.training import Gathering
from trainer.child import Child
from trainer.workplace import Workplace

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0


class NotWanted(Exception):
    """The attempt has ended, or this trainer ends."""


class Joiner:
    """Holds no claim and writes nothing: the first host's trainer answers for the job."""

    def __init__(self, config: Settings, database: Database, workplace: Workplace) -> None:
        self._config, self._database, self._workplace = config, database, workplace
        self._stopped = threading.Event()
        self._joined: Claim | None = None
        self._thread = threading.Thread(target=self._run, name="joiner", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        """Join whatever is announced, one training at a time, until `stop`."""
        while not self._stopped.wait(_LOOK_SECONDS):
            try:
                with self._database.transaction() as connection:
                    found = training.gatherings(connection)
                for gathering in found:
                    if gathering.job.claim != self._joined:
                        self._join(gathering)
                        break
            except DatabaseUnavailable as error:
                log.warning("cannot look for trainings to join, database is out of reach", error=str(error))

    def stop(self, seconds: float) -> None:
        """Leave at once, and wait so long for that."""
        self._stopped.set()
        self._thread.join(seconds)

    def _join(self, gathering: Gathering) -> None:
        claim = self._joined = gathering.job.claim
        log.info("joins a training", job_id=claim.job_id, attempt=claim.attempt)
        try:
            prepared = self._workplace.prepare(
                gathering.job, lambda: self._check(claim), resume=gathering.step
            )
            child = Child(prepared.folder, self._config)
            try:
                while child.exit_code is None:
                    child.words(_LOOK_SECONDS)  # only the first host's child speaks
                    self._check(claim)
            finally:
                child.close()
        except NotWanted:
            log.info("leaves a training", job_id=claim.job_id)
        except (JobError, StorageFailed, OSError) as error:
            log.error("could not join a training", job_id=claim.job_id, error=str(error))

    def _check(self, claim: Claim) -> None:
        with self._database.transaction() as connection:
            wanted = any(one.job.claim == claim for one in training.gatherings(connection))
        if self._stopped.is_set() or not wanted:
            raise NotWanted
