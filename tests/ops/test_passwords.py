"""The passwords of a stack of containers: made once, different, and closed to others."""

import io
import os
import stat
from pathlib import Path

import pytest

from ops import passwords


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("app", "postgres", "redis"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(passwords, "VOLUMES", tmp_path)
    monkeypatch.setattr(os, "chown", lambda *_: None)  # only root may
    return tmp_path


def contents(volumes: Path) -> dict[str, str]:
    return {str(path.relative_to(volumes)): path.read_text() for path in volumes.rglob("*") if path.is_file()}


def test_a_second_start_changes_nothing(volumes: Path) -> None:
    passwords.make()
    first = contents(volumes)
    passwords.make()
    assert contents(volumes) == first


def test_two_stacks_have_different_passwords(volumes: Path) -> None:
    passwords.make()
    first = contents(volumes)
    (volumes / "app" / "redis_url").unlink()
    passwords.make()
    second = contents(volumes)
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_a_start_that_was_cut_short_is_made_good(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([None, None, None, OSError("power cut")])

    def chown(*_: object) -> None:
        if step := next(steps):
            raise step

    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", chown)
        with pytest.raises(OSError, match="power cut"):
            passwords.make()
    passwords.make()
    made = contents(volumes)
    assert len(made) == 6
    assert f":{made['redis/password']}@redis" in made["app/redis_url"]


def test_application_and_servers_agree(volumes: Path) -> None:
    passwords.make()
    made = contents(volumes)
    database = made["app/database_url"].split(":")[2].split("@")[0]
    assert f"PASSWORD '{database}'" in made["postgres/role.sql"]
    assert f":{made['redis/password']}@redis" in made["app/redis_url"]
    assert made["redis/password"] not in made["redis/users.acl"]  # its hash is enough
    assert made["postgres/superuser_password"] not in made["app/database_url"]


def test_only_the_owner_of_a_file_can_read_it(volumes: Path) -> None:
    passwords.make()
    for path in volumes.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_a_token_is_kept_without_its_line_end(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["passwords.py", "hf_token"])
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_secret\n"))
    assert passwords.main() == 0
    assert contents(volumes) == {"app/hf_token": "hf_secret"}


def test_a_name_that_is_no_setting_is_refused(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["passwords.py", "../redis/users.acl"])
    assert passwords.main() == 2
    assert contents(volumes) == {}
