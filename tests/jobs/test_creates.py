"""Which create is a repetition, and of which."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.sql import text

from jobs import creates, keys, submission
from jobs.creates import Create, KeyReused
from jobs.database import Database
from jobs.submission import First
from tests.conftest import wait_for
from tests.jobs import samples


@pytest.fixture
def first(database: Database) -> Create:
    """A create that was sent for the first time."""
    return Create(_key(database, "ann"), "/v1/responses", b"digest")


def _key(database: Database, owner: str) -> int:
    with database.transaction() as connection:
        identity = keys.identify(connection, keys.issue(connection, owner))
    assert identity is not None
    return identity.key_id


def made(database: Database, create: Create, name: str, minutes_ago: float = 0) -> None:
    """Accept a create."""
    with database.transaction() as connection:
        creates.lock(connection, create)
        creates.record(connection, create, name)
        age = text(f"now() - interval '{minutes_ago} minutes'")
        connection.execute(
            update(creates.creates).where(creates.creates.c.resource_id == name).values(created_at=age)
        )


@contextmanager
def asking(database: Database, create: Create) -> Iterator[tuple[Connection, str | None]]:
    """Look for what an earlier one made."""
    with database.transaction() as connection:
        creates.lock(connection, create)
        yield connection, creates.join(connection, create)


def found(database: Database, create: Create) -> str | None:
    with asking(database, create) as (_, name):
        return name


def left(database: Database) -> list[str]:
    with database.transaction() as connection:
        rows = connection.execute(select(creates.creates.c.resource_id).order_by("resource_id"))
        return list(rows.scalars())


def test_a_retry_finds_what_the_same_key_path_and_body_made(database: Database, first: Create) -> None:
    made(database, first, "a")
    retry = replace(first, retries=1)
    assert found(database, retry) == "a"
    for other in (
        replace(retry, digest=b"other"),
        replace(retry, path="/v1/completions"),
        replace(retry, api_key_id=_key(database, "bob")),
    ):
        assert found(database, other) is None


def test_only_a_retry_count_or_a_key_makes_a_repetition(first: Create) -> None:
    assert not first.repeats
    assert replace(first, retries=1).repeats
    assert replace(first, idempotency_key="k").repeats


def test_a_retry_is_known_for_ten_minutes(database: Database, first: Create) -> None:
    made(database, first, "late", minutes_ago=11)
    assert found(database, replace(first, retries=1)) is None
    made(database, first, "soon", minutes_ago=9)
    assert found(database, replace(first, retries=1)) == "soon"


def test_equal_creates_that_were_cut_together_each_find_one_of_their_own(
    database: Database, first: Create
) -> None:
    for name in "abc":
        made(database, first, name)
    retry = replace(first, retries=1)
    assert {found(database, retry) for _ in range(3)} == {"a", "b", "c"}
    assert found(database, retry) in {"a", "b", "c"}, "a retry never makes another"


def test_the_second_retry_finds_what_the_first_retry_made(database: Database, first: Create) -> None:
    made(database, first, "other")
    made(database, replace(first, retries=1), "mine")
    assert found(database, replace(first, retries=2)) == "mine"


def test_a_key_of_the_caller_is_known_for_a_day(database: Database, first: Create) -> None:
    keyed = replace(first, idempotency_key="k")
    made(database, keyed, "a", minutes_ago=23 * 60)
    assert found(database, keyed) == "a"
    assert found(database, replace(first, retries=1)) is None, "a retry without the key is of another request"
    with database.transaction() as connection:
        connection.execute(text("UPDATE creates SET created_at = now() - interval '25 hours'"))
    assert found(database, keyed) is None
    made(database, keyed, "b")
    assert found(database, keyed) == "b"


def test_a_key_of_the_caller_goes_with_one_request(database: Database, first: Create) -> None:
    keyed = replace(first, idempotency_key="k")
    made(database, keyed, "a")
    for other in (replace(keyed, digest=b"other"), replace(keyed, path="/v1/batches")):
        with pytest.raises(KeyReused):
            found(database, other)
    assert found(database, replace(keyed, api_key_id=_key(database, "bob"), digest=b"other")) is None


def test_a_retry_waits_for_a_first_request_that_is_being_accepted(database: Database, first: Create) -> None:
    seen: list[str | None] = []
    retry = threading.Thread(target=lambda: seen.append(found(database, replace(first, retries=1))))
    with database.transaction() as connection:
        creates.lock(connection, first)
        retry.start()
        retry.join(timeout=0.3)
        assert retry.is_alive(), "it must not look before the other has committed"
        creates.record(connection, first, "a")
    retry.join(timeout=5)
    assert seen == ["a"]


def test_what_somebody_still_waits_for_is_not_left_alone(database: Database, first: Create) -> None:
    made(database, first, "a")
    assert found(database, replace(first, retries=1)) == "a"
    with database.transaction() as connection:
        assert not creates.leave(connection, "a"), "the retry waits"
    with database.transaction() as connection:
        assert creates.leave(connection, "a")


def test_what_was_made_without_a_sign_of_retries_is_left_at_once(database: Database) -> None:
    with database.transaction() as connection:
        assert creates.leave(connection, "unknown")


def test_rows_are_pruned_when_nobody_can_ask_for_them_any_more(database: Database, first: Create) -> None:
    keyed = replace(first, idempotency_key="k")
    made(database, first, "young", minutes_ago=11)
    made(database, keyed, "keyed", minutes_ago=60)
    with database.transaction() as connection:
        assert not creates.is_prunable(connection)
    made(database, first, "old", minutes_ago=25)
    made(database, replace(keyed, idempotency_key="l"), "yesterday", minutes_ago=25 * 60)
    with database.transaction() as connection:
        assert creates.is_prunable(connection)
    assert creates.prune(database) == 2
    assert left(database) == ["keyed", "young"]


def test_a_retry_waits_for_the_group_that_its_first_request_is_written_in(
    database: Database, owner: int, first: Create
) -> None:
    """Also where others of the group are equal to it, or have no sign of a retry."""
    wanted = [
        First(replace(samples.new(owner, name), api_key_id=first.api_key_id), create)
        for name, create in (("a", first), ("b", first), ("c", replace(first, digest=b"other")), ("d", None))
    ]
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with ThreadPoolExecutor() as threads:
        with database.driver() as connection, connection.transaction():
            submission.submit_group(connection, wanted)
            retry = threads.submit(found, database, replace(first, retries=1))
            with database.transaction() as other:
                wait_for(lambda: other.execute(waiting).scalar())
            assert not retry.done()
        assert retry.result(timeout=10) in ("a", "b")
    assert left(database) == ["a", "b", "c"]


def test_first_requests_in_two_groups_do_not_wait_for_each_other(
    database: Database, owner: int, first: Create
) -> None:
    one, two = (
        [First(replace(samples.new(owner, name), api_key_id=first.api_key_id), first)] for name in "ab"
    )
    with database.driver() as connection, connection.transaction():
        submission.submit_group(connection, one)
        with database.driver() as second, second.transaction():
            submission.submit_group(second, two)
    assert left(database) == ["a", "b"]
