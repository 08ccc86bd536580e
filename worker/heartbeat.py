"""Keeps the leases of everything this process holds, and hears which jobs and models are wanted no more."""

import os
import threading
import time
from datetime import timedelta

import structlog

from jobs import lifecycle
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.failpoints import failpoint
from worker.intake import Intake
from worker.roster import Roster

log = structlog.get_logger(__name__)

_REPEAT_OFFER = 60.0  # seconds
_FOLLOW_SECONDS = 0.9  # so with every look; a cancel's hint asks for more of these
_LOOK_SECONDS = 1.0  # a cancel whose hint got lost is seen after this


class Heartbeat:
    """A thread with a connection of its own, so that no slow commit can cost a lease."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        roster: Roster,
        lease: timedelta,
        every: timedelta,
    ) -> None:
        self._database = database
        self._intake = intake
        self._roster = roster
        self._lease = lease
        self._every = every.total_seconds()
        self._steps = -1
        self._moved_at = time.monotonic()
        self._hinted = threading.Event()
        self._stopped = threading.Event()

    def hear(self, job_ids: list[str]) -> None:
        """Somebody hinted that these were cancelled: ask SQL now instead of at the next look."""
        if {claim.job_id for claim in self._intake.claims()} & set(job_ids):
            self._hinted.set()

    def run(self) -> None:
        """Beat and look until `stop`."""
        beaten_at = offered_at = followed_at = time.monotonic()
        while not self._stopped.is_set():
            self._hinted.wait(min(_LOOK_SECONDS, self._every))
            self._hinted.clear()
            try:
                if time.monotonic() - beaten_at >= self._every:
                    self.beat()
                    beaten_at = time.monotonic()
                else:
                    self.look()
                if time.monotonic() - followed_at >= _FOLLOW_SECONDS:
                    self._roster.follow(self._database)
                    followed_at = time.monotonic()
                if time.monotonic() - offered_at >= _REPEAT_OFFER:
                    self._roster.offer(self._database)
                    offered_at = time.monotonic()
            except DatabaseUnavailable as error:
                log.warning("missed a heartbeat, database is out of reach", error=str(error))

    def stop(self) -> None:
        """End the thread at once."""
        self._stopped.set()
        self._hinted.set()

    def beat(self) -> None:
        """Renew every claim; stop what was lost or is unwanted. A device that hangs keeps nothing."""
        still = self._still_for()
        claims = self._intake.claims()
        if not claims:
            return
        if still > self._lease.total_seconds():
            log.error("the device hangs, its jobs are somebody else's by now", seconds=round(still, 1))
            os._exit(1)  # nothing here can end a thread that hangs; the supervisor starts a new worker
        if still > self._every:
            return
        failpoint("before_heartbeat")
        with self._database.transaction() as connection:
            lost, unwanted = lifecycle.heartbeat(connection, claims, self._lease)
        self._intake.drop(lost)
        self._intake.cancel(unwanted)

    def look(self) -> None:
        """Stop what is unwanted; renew nothing."""
        claims = self._intake.claims()
        if not claims:
            return
        with self._database.transaction() as connection:
            self._intake.cancel(lifecycle.unwanted(connection, claims))

    def _still_for(self) -> float:
        """Seconds since a model last made a step, or none had anything to do, or one was being loaded."""
        residents = self._roster.residents
        steps = sum(lane.steps for lane in residents.loaded)
        idle = all(lane.idle for lane in residents.loaded)
        if steps != self._steps or idle or residents.loading is not None:
            self._steps, self._moved_at = steps, time.monotonic()
        return time.monotonic() - self._moved_at
