"""What clients were told and what the stack's own log says, in a file outside of the stack."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS accepted (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, owner INTEGER NOT NULL,
    expected TEXT NOT NULL, asked REAL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS finals (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, digest TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS complaints (
    fault TEXT NOT NULL, id TEXT NOT NULL, said TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL,
    code TEXT, worker TEXT, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS of_job ON events (id, number);
CREATE INDEX IF NOT EXISTS by_time ON events (at);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, name TEXT, kind TEXT NOT NULL, batch TEXT, line INTEGER, created REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_creation ON jobs (created);
CREATE TABLE IF NOT EXISTS strikes (
    number INTEGER PRIMARY KEY, row TEXT NOT NULL, fault TEXT NOT NULL, began REAL NOT NULL,
    died REAL NOT NULL, over REAL NOT NULL, kills TEXT NOT NULL, held TEXT NOT NULL, said TEXT);
"""


class Expected(StrEnum):
    """How a job may end."""

    TEXT = "text"  # as its reference
    MAYBE = "maybe"  # so, or cancelled: its client wanted that, or went away
    POISON = "poison"  # it kills its workers
    BATCH = "batch"


class Complaint(StrEnum):
    """What a client can see to be wrong."""

    CHANGED = "changed"  # a final object is another one now
    RENAMED = "renamed"  # a create that was sent again was answered with another id
    DOUBLED = "doubled"  # a line of a batch has two results
    MISSING = "missing"  # what was accepted is not there any more, or a line of a batch has no result
    WRONG = "wrong"  # another text than the reference
    FAILED = "failed"  # though nothing was wrong with it
    REFUSED = "refused"  # a request that is well was answered 4xx or 500


@dataclass(frozen=True)
class Event:
    """One move of one job, from the stack's own log."""

    number: int
    job_id: str
    attempt: int
    state: str
    code: str | None
    worker: str | None
    at: float


@dataclass(frozen=True)
class Job:
    """A job that the stack made; `name` is of the create that asked for it."""

    job_id: str
    name: str | None
    kind: str
    batch: str | None
    line: int | None
    created: float


@dataclass
class Strike:
    """One fault that was done: when, whom it killed, and which attempts they held."""

    row: str
    fault: str
    began: float  # time.time(), as all of these
    died: float = 0.0  # when the holders of `held` could no longer serve
    over: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)  # attempt by job id
    said: str = ""


class Ledger:
    """A SQLite file; every method is for any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_TABLES}")

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def query(self, statement: str, *values: Any) -> list[Any]:
        """The rows that a SELECT finds."""
        with self._lock:
            return self._file.execute(statement, values).fetchall()

    def accept(
        self, job_id: str, name: str, kind: str, owner: int, expected: Expected, asked: float | None = None
    ) -> None:
        """A client was told that this exists; `asked`: since when it asked, of a background create."""
        row = (job_id, name, kind, owner, expected, asked, time.time())
        self._write("INSERT INTO accepted VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row)

    def expect(self, job_id: str, expected: Expected) -> None:
        """It may end in another way from now on."""
        self._write("UPDATE accepted SET expected = ? WHERE id = ?", (expected, job_id))

    def see_final(self, job_id: str, status: str, digest: str) -> None:
        """A client saw it ended; if it had ended otherwise before, that is a complaint."""
        row = (job_id, status, digest, time.time())
        self._write("INSERT INTO finals VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
        ((first_status, first),) = self.query("SELECT status, digest FROM finals WHERE id = ?", job_id)
        if first != digest:
            self.complain(Complaint.CHANGED, job_id, f"{first_status} {first} is {status} {digest} now")

    def complain(self, fault: Complaint, job_id: str, said: str) -> None:
        """A client saw what must not be."""
        self._write("INSERT INTO complaints VALUES (?, ?, ?, ?)", (fault, job_id, said[:500], time.time()))

    def log(self, events: Iterable[Event], jobs: Iterable[Job]) -> None:
        """What the stack's log says; what is known already is passed over."""
        moved = [(e.number, e.job_id, e.attempt, e.state, e.code, e.worker, e.at) for e in events]
        made = [(j.job_id, j.name, j.kind, j.batch, j.line, j.created) for j in jobs]
        self._write_all("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", moved)
        self._write_all("INSERT OR IGNORE INTO jobs VALUES (?, ?, ?, ?, ?, ?)", made)

    def strike(self, strike: Strike) -> None:
        """A fault was done."""
        s, kills, held = strike, json.dumps(strike.kills), json.dumps(strike.held)
        row = (None, s.row, s.fault, s.began, s.died, s.over, kills, held, s.said)
        self._write("INSERT INTO strikes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def strikes(self) -> list[Strike]:
        """All faults that were done, in order."""
        names = "row, fault, began, died, over, kills, held, said"
        rows = self.query(f"SELECT {names} FROM strikes ORDER BY number")
        return [
            Strike(row, fault, began, died, over, json.loads(kills), json.loads(held), said)
            for row, fault, began, died, over, kills, held, said in rows
        ]

    def _write(self, statement: str, row: Sequence[Any]) -> None:
        with self._lock:
            self._file.execute(statement, row)

    def _write_all(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            with self._lock:
                self._file.execute("BEGIN")
                self._file.executemany(statement, rows)
                self._file.execute("COMMIT")
