"""How a request waits for a job: one ear on Redis and one look at SQL for everybody who waits."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog

from jobs import records
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.signals import ENDED, Listener

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5  # Redis may lose what was said; then an end is seen this much later


class Waiting:
    """Wakes a request when its job has ended. Nobody is looked for while nobody waits."""

    def __init__(self, database: Database, redis_url: str, places: int) -> None:
        self._database = database
        self._places = threading.Semaphore(places)
        self._bells: dict[str, set[threading.Event]] = {}
        self._somebody = threading.Condition()
        self._closed = threading.Event()
        self._released = False
        self._listener = Listener(redis_url, ENDED, self._ring)
        self._thread = threading.Thread(target=self._look_around, name="waiting", daemon=True)
        self._thread.start()

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Take one of the places of those who wait; false when none is free.

        A waiting request holds a thread of the server; without a limit nobody could submit or cancel.
        """
        taken = self._places.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._places.release()

    def wait(self, job_id: str, seconds: float) -> None:
        """Return when the job has ended or is gone, after `seconds`, or when the process is to stop.

        Raises:
            DatabaseUnavailable: the first look at the job failed.
        """
        bell = threading.Event()
        with self._listening(job_id, bell):
            # looked at after the bell hangs: an end in between is either seen here or heard there
            if not self._released and not self._ended([job_id]):
                bell.wait(seconds)

    def release(self) -> None:
        """Send everybody who waits back soon. Takes no lock, so that a signal handler may call it."""
        self._released = True

    def close(self) -> None:
        """End the threads."""
        self._closed.set()
        with self._somebody:
            self._somebody.notify()
        self._thread.join(timeout=3)
        self._listener.close()

    @contextmanager
    def _listening(self, job_id: str, bell: threading.Event) -> Iterator[None]:
        with self._somebody:
            self._bells.setdefault(job_id, set()).add(bell)
            self._somebody.notify()
        try:
            yield
        finally:
            with self._somebody:
                self._bells[job_id].discard(bell)
                if not self._bells[job_id]:
                    del self._bells[job_id]

    def _ring(self, job_ids: Iterable[str]) -> None:
        with self._somebody:
            for job_id in job_ids:
                for bell in self._bells.get(job_id, ()):
                    bell.set()

    def _look_around(self) -> None:
        while True:
            with self._somebody:
                self._somebody.wait_for(lambda: self._bells or self._closed.is_set())
            if self._closed.wait(_LOOK_SECONDS):
                return
            with self._somebody:
                waited_for = list(self._bells)
            if self._released:
                self._ring(waited_for)
            elif waited_for:
                self._ring(self._look(waited_for))

    def _look(self, job_ids: list[str]) -> Iterable[str]:
        try:
            return self._ended(job_ids)
        except DatabaseUnavailable as error:
            log.warning("database is out of reach, those who wait go on waiting", error=str(error))
            return ()

    def _ended(self, job_ids: list[str]) -> set[str]:
        with self._database.transaction() as connection:
            return records.ended(connection, job_ids)
