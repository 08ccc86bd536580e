"""Keeps the leases of everything this process holds, and hears which jobs are no longer wanted."""

import threading
from datetime import timedelta

import structlog

from jobs import lifecycle
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from worker.intake import Intake
from worker.lanes import Lanes

log = structlog.get_logger(__name__)

_REPEAT_OFFER = 60.0  # seconds


class Heartbeat:
    """A thread with a connection of its own, so that no slow commit can cost a lease."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        lanes: Lanes,
        lease: timedelta,
        every: timedelta,
    ) -> None:
        self._database = database
        self._intake = intake
        self._lanes = lanes
        self._lease = lease
        self._every = every.total_seconds()
        self._moved_to = -1
        self._due = threading.Event()
        self._stopped = threading.Event()

    def hear(self, job_ids: list[str]) -> None:
        """Somebody hinted that these were cancelled: ask SQL now instead of at the next beat."""
        if {claim.job_id for claim in self._intake.claims()} & set(job_ids):
            self._due.set()

    def run(self) -> None:
        """Beat until `stop`."""
        since_offer = 0.0
        while not self._stopped.is_set():
            hinted = self._due.wait(self._every)
            self._due.clear()
            since_offer += 0 if hinted else self._every
            try:
                self._beat(hinted)
                if since_offer >= _REPEAT_OFFER:
                    since_offer = 0.0
                    self._lanes.offer(self._database)
            except DatabaseUnavailable as error:
                log.warning("missed a heartbeat, database is out of reach", error=str(error))

    def stop(self) -> None:
        """End the thread at once."""
        self._stopped.set()
        self._due.set()

    def _beat(self, hinted: bool) -> None:
        """Renew every claim; stop what was lost or is unwanted. A device that hangs keeps nothing."""
        claims = self._intake.claims()
        if not claims or not (hinted or self._has_moved()):
            return
        with self._database.transaction() as connection:
            lost, unwanted = lifecycle.heartbeat(connection, claims, self._lease)
        self._intake.drop(lost)
        self._intake.cancel(unwanted)

    def _has_moved(self) -> bool:
        engines = [lane.engine for lane in list(self._lanes.values())]
        steps = sum(engine.steps for engine in engines)
        moved = steps != self._moved_to or all(engine.idle for engine in engines)
        self._moved_to = steps
        return moved
