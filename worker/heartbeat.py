"""Keeps the leases of everything this process holds, and hears which jobs and models are wanted no more."""

import threading
import time
from datetime import timedelta

import structlog

from jobs import lifecycle
from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.failpoints import failpoint
from worker.intake import Intake
from worker.roster import Roster
from worker.stillness import Pulse, Stillness

log = structlog.get_logger(__name__)

_REPEAT_OFFER = 60.0  # seconds
_FOLLOW_SECONDS = 0.9  # so with every look; a cancel's hint asks for more of these
_CLAIM_SECONDS = 10.0  # no job takes longer from its claim to its begin
_LOOK_SECONDS = 1.0  # a cancel whose hint got lost is seen after this
_SUSPECT_SECONDS = 0.1  # between beats while one runs: if its worker dies, what it had reached must be known


class Heartbeat:
    """A thread with a connection of its own, so that no slow commit can cost a lease."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        roster: Roster,
        lease: timedelta,
        every: timedelta,
        pulse: Pulse,
    ) -> None:
        """`pulse`: that of the device, without which no lease is renewed."""
        self._database = database
        self._intake = intake
        self._roster = roster
        self._lease = lease
        self._every = every.total_seconds()
        self._stillness = Stillness(pulse, 2 * self._every)
        self.turns = 0  # of `run`; whoever watches for a hang looks at this
        self._hinted = threading.Event()
        self._heard: dict[str, float] = {}  # lately: job, time.monotonic()
        intake.began = self._begin
        self._stopped = threading.Event()

    def hear(self, job_ids: list[str]) -> None:
        """Somebody hinted that these were cancelled: ask SQL now instead of at the next look."""
        now = time.monotonic()
        recent = {job_id: at for job_id, at in self._heard.items() if now - at < _CLAIM_SECONDS}
        self._heard = recent | dict.fromkeys(job_ids, now)
        if {claim.job_id for claim in self._intake.claims()} & set(job_ids):
            self._hinted.set()

    def run(self) -> None:
        """Beat and look until `stop`."""
        beaten_at = offered_at = followed_at = time.monotonic()
        while not self._stopped.is_set():
            self.turns += 1
            every = _SUSPECT_SECONDS if self._intake.holds_suspect() else self._every
            self._hinted.wait(min(_LOOK_SECONDS, every))
            self._hinted.clear()
            try:
                if time.monotonic() - beaten_at >= every:
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

    def _begin(self, job: ClaimedJob) -> None:
        """A suspect must be told of at once, and a hint may have come between a job's claim and its begin."""
        if job.suspect or job.claim.job_id in self._heard:
            self._hinted.set()

    def beat(self) -> None:
        """Renew every claim and say how far it has come; stop what was lost or is unwanted.

        A device that hangs keeps nothing.
        """
        reached, hangs = self._intake.reached(), self._stillness.look() > self._every
        self._intake.moves = not hangs  # or it would claim again what is taken from it because it hangs
        if hangs or not reached:
            return
        failpoint("before_heartbeat")
        with self._database.transaction() as connection:
            lost, unwanted = lifecycle.heartbeat(connection, reached, self._lease, reached)
        self._intake.drop(lost)
        self._intake.cancel(unwanted)

    def look(self) -> None:
        """Stop what is unwanted; renew nothing."""
        claims = self._intake.claims()
        if not claims:
            return
        with self._database.transaction() as connection:
            self._intake.cancel(lifecycle.unwanted(connection, claims))
