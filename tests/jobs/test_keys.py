"""Whose key it is, and that nobody else's opens anything."""

from sqlalchemy import func, select

from jobs import keys
from jobs.database import Database
from jobs.tables import api_keys, owners


def test_a_key_opens_its_owner_and_allows_everything(database: Database) -> None:
    with database.transaction() as connection:
        ann, bob = keys.issue(connection, "ann"), keys.issue(connection, "bob")
        found = [keys.identify(connection, key) for key in (ann, bob)]
    assert all(found)
    assert found[0].owner_id != found[1].owner_id
    assert found[0].scopes == {"inference", "training"}


def test_an_owner_may_have_several_keys(database: Database) -> None:
    with database.transaction() as connection:
        issued = {keys.issue(connection, "ann") for _ in range(3)}
        found = {keys.identify(connection, key).owner_id for key in issued}
        names = connection.execute(select(func.count()).select_from(owners)).scalar_one()
    assert (len(issued), len(found), names) == (3, 1, 1)


def test_a_wrong_key_opens_nothing(database: Database) -> None:
    with database.transaction() as connection:
        good, other = keys.issue(connection, "ann"), keys.issue(connection, "bob")
        first, second = good[: keys._PREFIX_LENGTH], other[keys._PREFIX_LENGTH :]
        wrong = ["", "sk-penstock-", first, first + second, good + "x", good[:-1], good.upper(), "é" * 80]
        assert [key for key in wrong if keys.identify(connection, key)] == []


def test_a_revoked_key_opens_nothing_and_its_sisters_still_do(database: Database) -> None:
    with database.transaction() as connection:
        lost, kept = keys.issue(connection, "ann"), keys.issue(connection, "ann")
        shown = lost[: keys._PREFIX_LENGTH]
        assert keys.revoke(connection, shown)
        assert keys.identify(connection, lost) is None
        assert keys.identify(connection, kept)
        assert not keys.revoke(connection, shown), "once is enough"


def test_a_dump_of_the_database_holds_no_key(database: Database) -> None:
    with database.transaction() as connection:
        key = keys.issue(connection, "ann")
        [row] = connection.execute(select(api_keys)).all()
    dumped = " ".join(str(bytes(v)) if isinstance(v, bytes | memoryview) else str(v) for v in row)
    assert key[-43:] not in dumped
    assert key.startswith(row.prefix), "the part that finds the row is not the secret"
    assert len(key) - len(row.prefix) == 44, "256 bits and a dash"


def test_whether_there_is_a_key_at_all(database: Database) -> None:
    with database.transaction() as connection:
        assert not keys.any_key(connection)
        keys.issue(connection, "ann")
        assert keys.any_key(connection)


def test_an_unused_name_is_unused(database: Database) -> None:
    with database.transaction() as connection:
        for _ in range(3):
            keys.issue(connection, keys.unused_name(connection))
        assert connection.execute(select(func.count()).select_from(owners)).scalar_one() == 3
