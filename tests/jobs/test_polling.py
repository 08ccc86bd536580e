"""What those who poll see, many at once."""

from datetime import timedelta

from jobs import lifecycle, polling, records
from jobs.attempts import Ending
from jobs.database import Database
from tests.jobs import samples

KIND = "response"


def test_each_finds_what_is_theirs_and_nothing_else(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a", "b"])
    asked = [
        (owner, KIND, "b"),
        (owner + 1, KIND, "a"),
        (owner, "other", "a"),
        (owner, KIND, "c"),
        (owner, KIND, "a"),
    ]
    with database.driver() as connection:
        found = polling.find_all(connection, [*asked, asked[0]])
    assert [one and one.id for one in found] == ["b", None, None, None, "a", "b"]


def test_a_record_is_the_same_by_both_ways(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["ended", "queued"])
    (job, *_) = samples.claim(database, limit=1)
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, output={"text": "\0 and ü"})])
        alone = [records.find(connection, owner, KIND, name) for name in ("ended", "queued")]
    with database.driver() as connection:
        together = polling.find_all(connection, [(owner, KIND, "ended"), (owner, KIND, "queued")])
    assert [one and vars(one) | {"version": None} for one in together] == [one and vars(one) for one in alone]


def test_the_version_is_the_same_until_the_row_changes(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a"])
    asked = (owner, KIND, "a")

    def version() -> str | None:
        with database.driver() as connection:
            (found,), (record,) = polling.versions(connection, [asked]), polling.find_all(connection, [asked])
        assert record is None or record.version == found
        return found

    first = version()
    assert first == version() is not None
    samples.alter(database, "a", finished_at=None)
    assert version() not in (first, None)


def test_what_is_not_shown_has_no_version(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["hidden", "gone", "theirs"])
    samples.finished(database, owner, "forgotten", timedelta(0))
    with database.transaction() as connection:
        records.hide(connection, owner, KIND, "hidden")
        records.forget(connection, owner, KIND, "forgotten")
    asked = [(owner, KIND, "hidden"), (owner, KIND, "forgotten"), (owner + 1, KIND, "theirs")]
    with database.driver() as connection:
        assert polling.versions(connection, asked) == [None, None, None]
