"""Claims one job at a time from a queue, keeps its lease while it runs, and settles it.

desk       SQL: claims, and settles; runs the work
keeper     SQL: the lease, cancels and pauses
listener   Redis: hints
"""

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from jobs import claims, execution, lifecycle, metrics, outbox
from jobs.attempts import Claim, ClaimedJob, Ending
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.failpoints import failpoint
from jobs.queue import Chore, QueueName, make_signals
from jobs.settings import Settings
from jobs.signals import CANCELLED, ENDED, Listener
from jobs.states import FINAL
from trainer.keeper import Keeper
from trainer.wishes import Wish

log = structlog.get_logger(__name__)

_POLL_SECONDS = 1.0  # a doorbell may get lost; nobody waits longer than this for one
_RETRY_SECONDS = 1.0


class Work(Protocol):
    """What runs under a claim: a fine-tune, an export."""

    claim: Claim

    def wish(self, wish: Wish, seconds: float = ...) -> None:
        """Want something of it, within so many seconds."""

    def is_alive(self) -> bool:
        """Whether its lease shall be kept."""

    def run(self) -> dict[str, Any] | BaseException | None:
        """Do it; return what to end the attempt with, None where it has ended or is not ours any more."""


class Desk:
    """`begin` makes the work of a claimed job; `ended` writes what belongs to its end, with its job's id."""

    def __init__(
        self,
        config: Settings,
        queue: QueueName,
        begin: Callable[[ClaimedJob], Work],
        ended: Callable[[Connection, str], None] = lambda _connection, _job_id: None,
    ) -> None:
        self._config, self._queue = config, queue
        self._begin, self._ended = begin, ended
        self._database = Database(config.database, connections=1, idle_seconds=config.lease_seconds)
        self._signals = make_signals(config)
        beats = Database(config.database, 1, config.heartbeat_seconds, idle_seconds=config.lease_seconds)
        self._keeper = Keeper(beats, config.lease, timedelta(seconds=config.heartbeat_seconds))
        self._work: Work | None = None
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._patience = 0.0  # seconds that the work has once it shall stop
        self._thread = threading.Thread(target=self._run, name=f"desk {queue}", daemon=True)

    def start(self) -> None:
        """Start every thread."""
        self._listener = Listener(self._config.redis, CANCELLED, self._keeper.hear)
        threading.Thread(target=self._keeper.run, name=f"keeper {self._queue}", daemon=True).start()
        self._thread.start()

    def wake(self) -> None:
        """Somebody rang: there is work to claim."""
        self._awake.set()

    def stop(self, seconds: float) -> None:
        """Claim no more; what runs has so many seconds to hand itself back, uncharged."""
        self._patience = seconds
        self._stopping.set()
        self._awake.set()
        if (work := self._work) is not None:
            work.wish(Wish.STOP, seconds)

    def close(self, seconds: float) -> None:
        """After `stop`, wait so long for the last commit and end every thread."""
        self._thread.join(seconds)
        self._keeper.stop()
        self._listener.close()
        self._signals.close()
        if not self._thread.is_alive():
            self._database.close()

    def _run(self) -> None:
        """Claim, work, settle; sleep until woken."""
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
                self._do(job)

    def _claim(self) -> ClaimedJob | None:
        with self._database.transaction() as connection:
            job = claims.claim_any(connection, self._queue, self._config.worker, self._config.lease)
            if job is not None:
                failpoint("before_claim_commit")
        return job

    def _do(self, job: ClaimedJob) -> None:
        log.info("work begins", queue=self._queue, job_id=job.claim.job_id, attempt=job.claim.attempt)
        failpoint("after_claim")
        self._work = work = self._begin(job)
        self._keeper.keep(work)
        if self._stopping.is_set():  # it was claimed while `stop` looked for one
            work.wish(Wish.STOP, self._patience)
        try:
            outcome = work.run()
            if outcome is not None:
                self._settle(execution.ending(job, outcome, self._config.max_failures))
        finally:
            self._keeper.keep(None)
            self._work = None
        self._tell(job.claim.job_id)

    def _settle(self, ending: Ending) -> None:
        """Write how it ended, again and again while the database is away: the keeper holds the lease."""
        while True:
            try:
                with self._database.transaction() as connection:
                    settled = lifecycle.settle(connection, [ending])
                    failpoint("before_settle_commit")
                failpoint("after_settle")
                metrics.count([ending], settled)
                if ending.claim not in settled:
                    log.warning("result dropped, lease lost", job_id=ending.claim.job_id)
                return
            except DatabaseUnavailable as error:
                log.warning("the result waits for the database", error=str(error))
                if self._stopping.wait(_RETRY_SECONDS):
                    return

    def _tell(self, job_id: str) -> None:
        """Clear up after a job that has ended, and wake whoever waits for that."""
        try:
            with self._database.transaction() as connection:
                final = lifecycle.state_of(connection, job_id) in FINAL
                if final:
                    self._ended(connection, job_id)
                due = outbox.any_due(connection)
        except DatabaseUnavailable as error:
            log.warning("cannot look at how a job ended", job_id=job_id, error=str(error))
            return
        log.info("work ended", queue=self._queue, job_id=job_id, final=final)
        if final:
            self._signals.hint(ENDED, [job_id])
        if due:
            self._signals.ring(Chore.DELIVER)
