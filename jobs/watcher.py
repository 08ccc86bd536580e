"""The sweeper's thread that takes the snapshots of what waits, so that no lost lease waits for one."""

import threading
import time

import structlog
from sqlalchemy.exc import IntegrityError

from jobs import backlog, gauges, outbox
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.rates import Rates

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
_STATEMENT_SECONDS = 60  # millions of rows may wait that nobody has vacuumed yet


class Watcher:
    """Takes a snapshot when one is due, and keeps what Prometheus will ask for."""

    def __init__(self, database_url: str) -> None:
        self._database = Database(database_url, connections=1, statement_seconds=_STATEMENT_SECONDS)
        self._schedule = backlog.Schedule()
        self._rates = Rates()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current snapshot."""
        self._stopped.set()
        self._thread.join(timeout=2)
        self._database.close()

    def look(self) -> None:
        """Take a snapshot and read it.

        Raises:
            DatabaseUnavailable: PostgreSQL is out of reach, or was too slow.
        """
        began = time.monotonic()
        try:
            with self._database.transaction() as connection:
                if backlog.measure(connection):
                    self._rates.measure(connection)
        except IntegrityError:  # an owner was erased since the count began
            log.info("a snapshot was dropped, the next one is right")
        finally:
            self._schedule.took(time.monotonic() - began)
        with self._database.transaction() as connection:
            totals = backlog.totals(connection)
            gauges.QUEUES.standing = gauges.Standing(totals, *outbox.standing(connection))

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            if not self._schedule.is_due():
                continue
            try:
                self.look()
            except DatabaseUnavailable as error:
                log.warning("no snapshot, database is out of reach", error=str(error))
