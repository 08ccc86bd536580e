"""Reads the stack's own log into the ledger while it grows: rows of finished jobs do not stay for ever."""

import threading
import time
from typing import Any

import psycopg

from tests.faults.chaos.ledger import Event, Job, Ledger
from tests.faults.chaos.stack import Stack

_EVERY_SECONDS = 0.5
_OVERLAP_SECONDS = 15.0  # a row is seen when its transaction has committed, which may be after others
_OVERLAP = 5000  # rows
_MOVES = """
SELECT id, job_id, attempt, state, code, worker, extract(epoch FROM at)::float8 FROM job_events
WHERE level IS NULL AND id > %s AND at >= to_timestamp(%s) ORDER BY id
"""
_JOBS = """
SELECT id, input->'sampling'->>'seed', kind, batch_id, line, extract(epoch FROM created_at)::float8 FROM jobs
WHERE id = ANY(%s)
"""
_STALE = "SELECT count(*) FROM jobs WHERE state = 'running' AND lease_until < clock_timestamp()"
_OPEN = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"
_HELD = "SELECT id, attempt FROM jobs WHERE state = 'running' AND worker = %s"

_TRAINED = "SELECT id, attempt FROM jobs WHERE state = 'running' AND queue = 'train'"


class Witness:
    """A thread with a connection of its own that passes no proxy."""

    def __init__(self, stack: Stack, ledger: Ledger) -> None:
        self._stack, self._ledger = stack, ledger
        self._since, self._last = 0.0, 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self.stale = 0  # jobs that ran without a live lease at the last look

    def start(self) -> None:
        """Read until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and read all that is there once more. Raises psycopg.Error."""
        self._stopped.set()
        self._thread.join()
        self._since, self._last = 0.0, 0
        with self._stack.connect() as connection:
            self._read(connection)

    def held_by(self, worker: str) -> dict[str, int]:
        """The attempts that a worker holds now, by job id; none while PostgreSQL is down."""
        return {str(job_id): int(attempt) for job_id, attempt in self._ask(_HELD, worker)}

    def trained(self) -> dict[str, int]:
        """The attempts that trainers hold now, by job id."""
        return {str(job_id): int(attempt) for job_id, attempt in self._ask(_TRAINED)}

    def open_jobs(self) -> int:
        """How many jobs have not ended; -1 while PostgreSQL is down."""
        return self._count(_OPEN)

    def stale_leases(self) -> int:
        """How many jobs run without a live lease; -1 while PostgreSQL is down."""
        return self._count(_STALE)

    def _count(self, statement: str) -> int:
        rows = self._ask(statement)
        return int(rows[0][0]) if rows else -1

    def _ask(self, statement: Any, *values: Any) -> list[Any]:
        try:
            with self._stack.connect() as connection:
                return connection.execute(statement, values).fetchall()
        except psycopg.Error:
            return []

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._stack.connect() as connection:
                    while not self._stopped.wait(_EVERY_SECONDS):
                        self._read(connection)
            except psycopg.Error:
                self._stopped.wait(_EVERY_SECONDS)

    def _read(self, connection: "psycopg.Connection[Any]") -> None:
        began = time.time()
        rows = connection.execute(_MOVES, (self._last - _OVERLAP, self._since)).fetchall()
        moves = [Event(*row) for row in rows]
        named = list({move.job_id for move in moves if move.attempt == 0})
        made = connection.execute(_JOBS, (named,)).fetchall() if named else []
        self._ledger.log(moves, [Job(*row) for row in made])
        self._since = began - _OVERLAP_SECONDS
        self._last = max([self._last, *(move.number for move in moves)])
