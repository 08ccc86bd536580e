"""How a request waits for a job: one ear on Redis and one look around for everybody who waits."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import structlog

from jobs import records
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.signals import ENDED, Listener
from web.connection import Connection

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5  # Redis may lose what was said; then an end is seen this much later


class Watch:
    """Somebody who waits for a job, and why they were woken."""

    def __init__(self, job_id: str, wake: Callable[[], None], client: Connection | None) -> None:
        self.job_id = job_id
        self.ended = False  # or the job is not there any more
        self.gone = False
        self.stopping = False
        self._wake = wake
        self._client = client

    def look(self, stopping: bool) -> None:
        """Notice that the process is to stop or that the client has gone."""
        self.stopping = stopping
        self.gone = self.gone or (self._client is not None and self._client.gone())
        if self.stopping or self.gone:
            self._wake()

    def end(self) -> None:
        """The job has ended."""
        self.ended = True
        self._wake()


class Waiting:
    """Wakes a request when its job has ended. Nobody is looked for while nobody waits."""

    def __init__(self, database: Database, redis_url: str, places: int) -> None:
        self._database = database
        self._places = threading.Semaphore(places)
        self._watches: dict[str, set[Watch]] = {}
        self._somebody = threading.Condition()
        self._closed = threading.Event()
        self._released = False
        self._listener = Listener(redis_url, ENDED, self._end)
        self._thread = threading.Thread(target=self._look_around, name="waiting", daemon=True)
        self._thread.start()

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Take one of the places of those who wait or stream; false when none is free.

        Each holds a connection of this process; without a limit nobody could submit or cancel.
        """
        taken = self._places.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._places.release()

    def wait(self, job_id: str, seconds: float, client: Connection | None = None) -> Watch:
        """Return when the job has ended or is gone, after `seconds`, or when the process is to stop.

        With a `client`, also within about half a second of its going away; the Watch says which it was.

        Raises:
            DatabaseUnavailable: the first look at the job failed.
        """
        bell = threading.Event()
        with self.watch(job_id, bell.set, client) as watch:
            bell.wait(seconds)
        return watch

    @contextmanager
    def watch(
        self, job_id: str, wake: Callable[[], None], client: Connection | None = None
    ) -> Iterator[Watch]:
        """Call `wake`, from any thread, for each of the reasons that the Watch knows; it must not block.

        Raises:
            DatabaseUnavailable: the first look at the job failed.
        """
        watch = Watch(job_id, wake, client)
        with self._somebody:
            self._watches.setdefault(job_id, set()).add(watch)
            self._somebody.notify()
        try:
            # looked at after the watch has begun: an end in between is either seen here or heard there
            if self._released:
                watch.look(stopping=True)
            elif self._ended([job_id]):
                watch.end()
            yield watch
        finally:
            with self._somebody:
                self._watches[job_id].discard(watch)
                if not self._watches[job_id]:
                    del self._watches[job_id]

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

    def _end(self, job_ids: Iterable[str]) -> None:
        with self._somebody:
            for job_id in job_ids:
                for watch in self._watches.get(job_id, ()):
                    watch.end()

    def _look_around(self) -> None:
        while True:
            with self._somebody:
                self._somebody.wait_for(lambda: self._watches or self._closed.is_set())
            if self._closed.wait(_LOOK_SECONDS):
                return
            with self._somebody:
                waited_for = list(self._watches)
                for watches in self._watches.values():
                    for watch in watches:
                        watch.look(self._released)
            if waited_for and not self._released:
                self._end(self._look(waited_for))

    def _look(self, job_ids: Collection[str]) -> Iterable[str]:
        try:
            return self._ended(job_ids)
        except DatabaseUnavailable as error:
            log.warning("database is out of reach, those who wait go on waiting", error=str(error))
            return ()

    def _ended(self, job_ids: Collection[str]) -> set[str]:
        with self._database.reading() as connection:
            return records.ended(connection, job_ids)
