"""What a caller sees of a PostgreSQL that is slow, gone or back."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.settings import Settings
from tests.jobs import samples


def run(database: Database, statement: str) -> object:
    with database.transaction() as connection:
        return connection.execute(text(statement)).scalar()


def test_a_connection_that_the_server_ended_is_replaced_unseen(database: Database) -> None:
    pid = run(database, "SELECT pg_backend_pid()")
    other = Database(database.engine.url.render_as_string(hide_password=False))
    assert run(other, f"SELECT pg_terminate_backend({pid}, 5000)")  # waits until it has ended
    assert run(database, "SELECT 1") == 1
    other.close()


def test_a_connection_lost_within_a_transaction_says_that_nothing_was_written(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        run(database, "SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_statement_that_takes_too_long_is_given_up(settings: Settings, database: Database) -> None:
    hasty = Database(settings.database, statement_seconds=0.1)
    with pytest.raises(DatabaseUnavailable, match="timeout"):
        run(hasty, "SELECT pg_sleep(10)")
    hasty.close()


def test_a_caller_that_finds_every_connection_taken_is_told_so(
    settings: Settings, database: Database
) -> None:
    small = Database(settings.database, connections=1)
    small.engine.pool._timeout = 0.1
    with small.transaction(), pytest.raises(DatabaseUnavailable):
        run(small, "SELECT 1")
    small.close()


def test_what_fails_half_way_writes_nothing(database: Database, owner: int) -> None:
    def fail() -> None:
        with database.transaction() as connection:
            connection.execute(text("UPDATE owners SET name = 'changed'"))
            raise KeyError("a defect")

    with pytest.raises(KeyError):
        fail()
    assert run(database, "SELECT name FROM owners") == "somebody"


def test_a_statement_that_is_wrong_is_not_blamed_on_the_server(database: Database) -> None:
    with pytest.raises(Exception, match="nothing_like_this") as raised:
        run(database, "SELECT nothing_like_this")
    assert not isinstance(raised.value, DatabaseUnavailable)


def test_threads_share_the_pool(database: Database, owner: int) -> None:
    threads = [threading.Thread(target=samples.submit, args=(database, owner, [str(n)])) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(samples.states(database)) == 12


def test_waiting_for_a_server_ends_when_it_answers_and_when_time_is_up(
    database: Database, tmp_path: Path
) -> None:
    database.wait_until_up(20)
    gone = Database(f"postgresql+psycopg://penstock@/postgres?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable):
        gone.wait_until_up(0.1)
    with pytest.raises(DatabaseUnavailable):
        gone.wait_until_up(60, worth_waiting=lambda: False)
    gone.close()


def test_locks_of_who_stands_still_within_a_transaction_are_let_go(
    settings: Settings, database: Database, owner: int
) -> None:
    still = Database(settings.database, connections=1, idle_seconds=0.2)
    lock = text("SELECT 1 FROM owners WHERE id = :owner FOR UPDATE")
    block = still.transaction()
    connection = block.__enter__()
    connection.execute(lock, {"owner": owner})
    with database.transaction() as other:
        assert other.execute(lock, {"owner": owner}).scalar_one() == 1  # waits until it is free
    with pytest.raises(DatabaseUnavailable, match="idle"):
        block.__exit__(None, None, None)
    assert run(still, "SELECT 1") == 1
    still.close()
