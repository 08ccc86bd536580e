"""What bench/queue.py counts and how it judges."""

import psycopg

from bench.queue import report
from bench.queueing.contestants import Round
from bench.queueing.counting import Statements
from jobs.database import Database


def made(stored: float, statements: int = 0) -> Round:
    """1,000 jobs in so many seconds."""
    return Round(1000, stored / 2, stored, 0.5, 0.25, 0.125, statements)


def test_ratios_are_of_one_round_and_judged_by_their_median() -> None:
    done = {"Penstock": [made(1, 200), made(2, 300), made(4, 250)], "Celery": [made(1), made(5), made(8)]}
    ours, theirs = report(done).splitlines()[2:]
    assert "500 (250 to 1,000)" in ours
    assert "0.25 (0.20 to 0.30)" in ours
    assert "2.00 (1.00 to 2.50), goal 2: met" in theirs
    assert report({**done, "Celery": [made(1), made(3), made(8)]}).endswith("goal 2: missed |")


def test_statements_are_counted_whoever_sends_them_and_without_begin_and_commit(database: Database) -> None:
    kinds = (psycopg.Cursor, psycopg.AsyncCursor)
    kept = [(kind, kind.execute, kind.executemany) for kind in kinds]
    try:
        counted = Statements()
        with database.transaction(), database.driver():
            pass  # SQLAlchemy asks something of each new connection
        before = counted.count
        with database.transaction() as connection:
            connection.exec_driver_sql("SELECT 1")
            connection.exec_driver_sql("SELECT 2")
        with database.driver() as driver, driver.transaction():
            driver.execute("SELECT 3")
        assert counted.count - before == 3
    finally:
        for kind, execute, executemany in kept:
            kind.execute, kind.executemany = execute, executemany  # type: ignore[method-assign]
