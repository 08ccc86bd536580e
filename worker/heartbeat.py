"""Keeps the leases of everything this process holds, and hears which jobs are no longer wanted."""

import threading
from datetime import timedelta

import structlog

from jobs import catalog, lifecycle
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from worker.device import Lane
from worker.intake import Intake

log = structlog.get_logger(__name__)

_REPEAT_OFFER = 60.0  # seconds


class Heartbeat:
    """A thread with a connection of its own, so that no slow commit can cost a lease."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        lanes: list[Lane],
        worker: str,
        lease: timedelta,
        every: timedelta,
    ) -> None:
        self._database = database
        self._intake = intake
        self._lanes = lanes
        self._worker = worker
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
                    with self._database.transaction() as connection:
                        catalog.still_here(connection, self._worker)
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
        steps = sum(lane.engine.steps for lane in self._lanes)
        moved = steps != self._moved_to or all(lane.engine.idle for lane in self._lanes)
        self._moved_to = steps
        return moved
