"""`python -m web.keys`: what whoever runs the server does and sees."""

import pytest
from sqlalchemy import select

from jobs import keys
from jobs.database import Database
from jobs.keys import Identity, Limits
from jobs.settings import Settings
from jobs.tables import api_keys
from web import keys as command


@pytest.fixture(autouse=True)
def _same_stack(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAR_DIR", str(settings.var_dir))


def run(*arguments: str) -> int:
    return command.main(list(arguments))


def identify(database: Database, key: str) -> Identity | None:
    with database.transaction() as connection:
        return keys.identify(connection, key)


def test_a_new_key_is_printed_alone_and_once(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("create", "--owner", "ann", "--scopes", "inference,admin", "--requests-per-minute", "60") == 0
    key = capsys.readouterr().out.strip()
    who = identify(database, key)
    assert who is not None
    assert who.scopes == {"inference", "admin"}
    assert who.limits == Limits(requests_per_minute=60)
    assert run("list") == 0
    listed = capsys.readouterr().out
    assert key[:24] in listed
    assert key[24:] not in listed


def test_a_key_is_usually_for_everything_but_admin_and_without_limits(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    run("create", "--owner", "ann")
    who = identify(database, capsys.readouterr().out.strip())
    assert who is not None
    assert who.scopes == {"inference", "training"}
    assert who.limits == Limits()


def test_an_owner_rotates_keys(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        run("create", "--owner", "ann", "--tokens-per-minute", "5")
    old, new = capsys.readouterr().out.split()
    assert run("revoke", old[:24]) == 0
    assert identify(database, old) is None
    found = identify(database, new)
    run("create", "--owner", "bob")
    capsys.readouterr()
    run("list", "--owner", "ann")
    listed = capsys.readouterr().out.splitlines()
    assert found is not None
    assert len(listed) == 3
    assert "revoked" in listed[1]
    assert "works" in listed[2]
    assert "tokens_per_minute=5" in listed[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create"], "--owner"),
        (["create", "--owner", ""], "an owner has a name"),
        (["create", "--owner", "a\nb"], "an owner has a name"),
        (["create", "--owner", "ann", "--scopes", "all"], "'all' is no scope; name some of inference"),
        (["create", "--owner", "ann", "--queued-jobs", "0"], "send a whole number from 1"),
        (["create", "--owner", "ann", "--queued-jobs", "9" * 30], "send a whole number from 1"),
        (["revoke", "sk-penstock-nothing"], "There is no key that begins with 'sk-penstock-nothing'"),
        ([], "create"),
    ],
)
def test_a_mistake_is_explained_and_changes_nothing(
    arguments: list[str], said: str, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = run(*arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    with database.transaction() as connection:
        assert connection.execute(select(api_keys)).all() == []


def test_a_database_that_is_down_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    assert run("list") == 2
    assert "Start the stack" in capsys.readouterr().err
