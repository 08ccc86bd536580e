"""`make bench-claims`: what claims, places and creates cost behind 100, 10,000 and a million jobs.

Three databases in one PostgreSQL, asked in turn, so that what disturbs one disturbs all. Jobs are of 8 owners
in all three tiers. What is claimed goes back to the queue after each claim, so the backlog stays.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine, text

from jobs import claims, embedded, lifecycle, positions, submission
from jobs.attempts import Ending, NewJob, Tier
from jobs.database import Database
from jobs.errors import WorkerStopping
from jobs.statements import driver_of
from stack.migrate import alembic_config

SIZES = (100, 10_000, 1_000_000)
_QUEUE, _MODEL, _OWNERS, _LEASE = "generate", "m", 8, timedelta(minutes=5)
_JOB_TOKENS = (10, 20, 40, 80, 160, 320, 640, 1000)  # of each owner's jobs
_EACH_TOKENS = 40_000  # of all jobs of an owner
_FILL = """
    INSERT INTO jobs (id, owner_id, kind, queue, model, state, tier, tokens, stored, request, input)
    SELECT 'job' || n, 1 + n % :owners, 'response', :queue, :model, 'queued', n / :owners % 3,
        20 + n % 1000 * 7919 % 400, true, '{}', '{}'
    FROM generate_series(1, :size) n"""


def main() -> None:
    """Print milliseconds: median and 99th percentile for each backlog, and the ratio of the extremes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--slots", type=int, default=8)
    arguments = parser.parse_args()
    with server() as url:
        databases = {size: filled(url, size) for size in SIZES}
        acts: dict[str, Callable[[Database, int], float]] = {
            f"claim of {arguments.slots}": lambda database, _: claim(database, arguments.slots),
            "place of the next": lambda database, _: place(database, 0.0),
            "place of the last": lambda database, _: place(database, 1.0),
            "create": create,
        }
        print(f"{'':20}" + "".join(f"{f'{size:,} jobs':>24}" for size in SIZES) + f"{'p99 ratio':>12}")
        for name, act in acts.items():
            taken: dict[int, list[float]] = {size: [] for size in SIZES}
            for number in range(arguments.rounds):
                for size, database in databases.items():
                    taken[size].append(act(database, number) * 1000)
            cut = {size: statistics.quantiles(times, n=100) for size, times in taken.items()}
            shown = "".join(f"{f'{cut[size][49]:.2f} / {cut[size][98]:.2f}':>24}" for size in SIZES)
            print(f"{name:20}{shown}{cut[SIZES[-1]][98] / cut[SIZES[0]][98]:12.2f}", flush=True)
        for database in databases.values():
            database.close()
        print(f"Jain's index over 8 owners whose jobs cost 10 to 1,000 tokens: {fairness(url):.4f}")


@contextmanager
def server() -> Iterator[str]:
    """An empty PostgreSQL of its own, with the settings that `make up` gives it."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        embedded.prepare(Path(folder))
        process = subprocess.Popen(embedded.postgres_command(Path(folder)), stderr=subprocess.DEVNULL)
        try:
            url = embedded.postgres_url(Path(folder))
            database = Database(url, connections=1)
            database.wait_until_up(30)
            database.close()
            yield url
        finally:
            process.send_signal(2)  # SIGINT: do not wait for those who are connected
            process.wait(timeout=60)


def filled(url: str, size: int) -> Database:
    """A migrated database of its own with so many queued jobs, as autovacuum leaves it."""
    name = f"backlog_{size}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    own = url.replace("/postgres?", f"/{name}?")
    command.upgrade(alembic_config(own), "head")
    database = Database(own, connections=1, statement_seconds=600)
    with database.transaction() as connection:
        for number in range(_OWNERS):
            connection.execute(text("INSERT INTO owners (name) VALUES (:name)"), {"name": f"o{number}"})
        given = {"owners": _OWNERS, "queue": _QUEUE, "model": _MODEL, "size": size}
        connection.execute(text(_FILL), given)
    with database.reading() as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))
    return database


def claim(database: Database, slots: int) -> float:
    """Seconds that a claim takes, its commit included; what it took is handed back."""
    began = time.perf_counter()
    with database.reading() as connection:
        taken = claims.claim(connection, _QUEUE, _MODEL, "bench", _LEASE, slots)
    seconds = time.perf_counter() - began
    assert len(taken) == slots
    with database.transaction() as connection:
        stopping = WorkerStopping("bench")
        lifecycle.settle(connection, [Ending(job.claim, error=stopping, again=True) for job in taken])
    return seconds


def place(database: Database, share: float) -> float:
    """Seconds until it is known where a job stands: the first of its owner, or the last."""
    order = "DESC" if share else "ASC"
    with database.reading() as connection:
        found = text(f"SELECT id FROM jobs WHERE state = 'queued' ORDER BY seq {order} LIMIT 1")
        name = connection.execute(found).scalar_one()
        began = time.perf_counter()
        assert positions.find(driver_of(connection), [name])
        return time.perf_counter() - began


def create(database: Database, number: int) -> float:
    """Seconds until a job is accepted; it is deleted again."""
    job = NewJob(f"new{number}", 1 + number % _OWNERS, "response", _QUEUE, _MODEL, Tier.STANDARD, {}, {})
    began = time.perf_counter()
    with database.transaction() as connection:
        submission.submit(connection, job)
    seconds = time.perf_counter() - began
    with database.transaction() as connection:
        connection.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": job.id})
    return seconds


def fairness(url: str) -> float:
    """Jain's index of the tokens that owners with skewed loads got while all of them had jobs waiting."""
    database = filled(url, 0)
    cost: dict[str, tuple[int, int]] = {}
    for owner, size in enumerate(_JOB_TOKENS):
        model = ("response", _QUEUE, _MODEL, Tier.STANDARD)
        count = _EACH_TOKENS // size
        jobs = [NewJob(f"{owner}-{n}", 1 + owner, *model, {}, {}, tokens=size) for n in range(count)]
        cost |= {job.id: (owner, size) for job in jobs}
        with database.transaction() as connection:
            submission.submit_many(connection, jobs)
    got = [0] * _OWNERS
    while sum(got) < _EACH_TOKENS * _OWNERS / 3:
        with database.transaction() as connection:
            for job in claims.claim(connection, _QUEUE, _MODEL, "bench", _LEASE, 8):
                owner, size = cost[job.claim.job_id]
                got[owner] += size
    database.close()
    return sum(got) ** 2 / (_OWNERS * sum(tokens**2 for tokens in got))


if __name__ == "__main__":
    main()
