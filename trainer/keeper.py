"""Keeps the lease of the attempt that runs, and hears what its owner wishes: a cancel, a pause."""

import threading
import time
from datetime import timedelta
from typing import Protocol

import structlog

from jobs import lifecycle, metrics, training
from jobs.attempts import Claim
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from trainer.wishes import Wish

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0  # a wish whose hint got lost is seen after this


class Held(Protocol):
    """What runs under a claim: a fine-tune, an export."""

    claim: Claim

    def wish(self, wish: Wish) -> None:
        """Want something of it."""

    def is_alive(self) -> bool:
        """Whether its lease shall be kept."""


class Keeper:
    """A thread with a connection of its own, so that no slow commit can cost the lease."""

    def __init__(self, database: Database, lease: timedelta, every: timedelta) -> None:
        self._database = database
        self._lease, self._every = lease, every.total_seconds()
        self._attempt: Held | None = None
        self._beaten_at = 0.0
        self._hinted = threading.Event()
        self._stopped = threading.Event()

    def keep(self, attempt: Held | None) -> None:
        """From now on keep this one, which was claimed just now; None: there is none."""
        self._beaten_at = time.monotonic()
        self._attempt = attempt

    def hear(self, job_ids: list[str]) -> None:
        """Somebody hinted that these were cancelled or paused: ask SQL now instead of at the next look."""
        attempt = self._attempt
        if attempt is not None and attempt.claim.job_id in job_ids:
            self._hinted.set()

    def run(self) -> None:
        """Beat and look until `stop`."""
        while not self._stopped.is_set():
            self._hinted.wait(min(_LOOK_SECONDS, self._every))
            self._hinted.clear()
            if (attempt := self._attempt) is None:
                continue
            try:
                if time.monotonic() - self._beaten_at >= self._every and attempt.is_alive():
                    self._beat(attempt)
                self._look(attempt)
            except DatabaseUnavailable as error:
                log.warning("missed a heartbeat, database is out of reach", error=str(error))
        self._database.close()

    def stop(self) -> None:
        """End the thread at once."""
        self._stopped.set()
        self._hinted.set()

    def _beat(self, attempt: Held) -> None:
        began = time.monotonic()
        with self._database.transaction() as connection:
            lost, _ = lifecycle.heartbeat(connection, [attempt.claim], self._lease)
        self._beaten_at = began
        if lost:
            metrics.LEASE_LOSSES.inc()
            log.warning("lease lost", job_id=attempt.claim.job_id, attempt=attempt.claim.attempt)
            attempt.wish(Wish.LOST)
            self._attempt = None

    def _look(self, attempt: Held) -> None:
        with self._database.transaction() as connection:
            unwanted = lifecycle.unwanted(connection, [attempt.claim])
            paused = training.is_paused(connection, attempt.claim)
        if unwanted:
            attempt.wish(Wish.CANCEL)
        elif paused:
            attempt.wish(Wish.PAUSE)
