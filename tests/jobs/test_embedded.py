"""The servers of one machine: whole, closed to others, and changing nothing outside their folder."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from jobs import embedded
from jobs.database import Database
from jobs.errors import BadSetting
from tests.conftest import ROOT, wait_for


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ancestors(path: Path) -> dict[Path, tuple[int, int]]:
    return {folder: (mode(folder), folder.stat().st_uid) for folder in path.parents}


class Stack:
    """PostgreSQL and Redis in a folder below a closed one, made after an initdb was killed half-way."""

    def __init__(self, parent: Path) -> None:
        self.before = ancestors(parent / "var")
        self.var_dir = parent / "var"
        self.killed_at = kill_initdb(self.var_dir)
        self.whole_after_kill = (self.var_dir / "postgres").exists()
        embedded.prepare(self.var_dir)
        commands = (embedded.postgres_command(self.var_dir), embedded.redis_command(self.var_dir))
        with (self.var_dir / "log" / "test.log").open("wb") as log:
            self.running = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        database = Database(embedded.postgres_url(self.var_dir), connections=1)
        database.wait_until_up(20)
        database.close()
        self.redis_socket = embedded.run_folder(self.var_dir) / "redis.sock"
        wait_for(self.redis_socket.exists)

    def stop(self) -> list[int]:
        for process in self.running:
            process.send_signal(signal.SIGINT)
        return [process.wait(timeout=20) for process in self.running]


def kill_initdb(var_dir: Path) -> str:
    """Kill a first start while initdb works; return the file that would make it look whole."""
    program = (
        "import sys; from pathlib import Path; from jobs import embedded; embedded.prepare(Path(sys.argv[1]))"
    )
    first = subprocess.Popen([sys.executable, "-c", program, str(var_dir)], cwd=ROOT, start_new_session=True)
    wait_for(lambda: list(var_dir.glob("initdb-*/PG_VERSION")), every=0.002)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(timeout=10)
    return next(var_dir.glob("initdb-*/PG_VERSION")).name


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    parent = tmp_path_factory.mktemp("c")
    parent.chmod(0o700)
    stack = Stack(parent)
    yield stack
    stack.stop()


def test_a_half_made_cluster_is_not_taken_for_a_whole_one(stack: Stack) -> None:
    assert stack.killed_at == "PG_VERSION", "the kill came too late to mean anything"
    assert not stack.whole_after_kill
    with psycopg.connect(
        host=str(embedded.run_folder(stack.var_dir)), user="penstock", dbname="postgres"
    ) as c:
        assert c.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_nothing_above_the_folder_changes(stack: Stack) -> None:
    assert ancestors(stack.var_dir) == stack.before
    assert stack.before[stack.var_dir.parent][0] == 0o700


def test_only_the_owner_can_enter_where_the_sockets_lie(stack: Stack) -> None:
    folder = embedded.run_folder(stack.var_dir)
    assert (mode(folder), folder.stat().st_uid) == (0o700, os.getuid())
    assert mode(stack.redis_socket) == 0o700
    assert mode(folder / ".s.PGSQL.5432") == 0o700
    assert mode(stack.var_dir / "postgres") == 0o700
    assert mode(stack.var_dir) == 0o700


def test_neither_server_asks_for_a_tcp_port(stack: Stack) -> None:
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            lines = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            listening |= {f"socket:[{line[9]}]" for line in lines if line[3] == "0A"}
    for process in stack.running:
        held = {os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
        assert any(name.startswith("socket:") for name in held), "it listens somewhere"
        assert held & listening == set()


@pytest.mark.skipif(os.getuid() != 0, reason="only root lends PostgreSQL another user")
def test_postgresql_does_not_run_as_root(stack: Stack) -> None:
    postgres = stack.running[0]
    status = Path(f"/proc/{postgres.pid}/status").read_text()
    [uids] = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
    assert "0" not in uids


def test_a_second_start_keeps_the_cluster(stack: Stack) -> None:
    made = (stack.var_dir / "postgres" / "PG_VERSION").stat().st_mtime_ns
    embedded.prepare(stack.var_dir)
    assert (stack.var_dir / "postgres" / "PG_VERSION").stat().st_mtime_ns == made


def test_the_folder_of_the_sockets_is_closed_again_at_every_start(stack: Stack) -> None:
    folder = embedded.run_folder(stack.var_dir)
    folder.chmod(0o755)
    embedded.prepare(stack.var_dir)
    assert mode(folder) == 0o700


def test_a_very_long_folder_name_still_leaves_room_for_a_socket(tmp_path: Path) -> None:
    var_dir = tmp_path / ("deep/" * 30) / "var"
    folder = embedded.run_folder(var_dir)
    assert len(os.fsencode(folder / ".s.PGSQL.5432.lock")) <= 107
    assert folder == embedded.run_folder(var_dir), "the same every time"
    assert folder != embedded.run_folder(var_dir / "other")
    (var_dir / "redis").mkdir(parents=True)
    folder.mkdir(mode=0o700)
    redis = subprocess.Popen(embedded.redis_command(var_dir), stdout=subprocess.DEVNULL)
    try:
        wait_for((folder / "redis.sock").exists)
    finally:
        redis.terminate()
        redis.wait(timeout=10)
        (folder / "redis.sock").unlink(missing_ok=True)
        folder.rmdir()


def test_names_are_counted_in_bytes(tmp_path: Path) -> None:
    folder = embedded.run_folder(tmp_path / ("é" * 40))
    assert len(os.fsencode(folder / ".s.PGSQL.5432.lock")) <= 107


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: me + 1)
    with pytest.raises(BadSetting, match="belongs to another user"):
        embedded.prepare(tmp_path / "var")


def test_an_initdb_that_fails_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "initdb"
    fake.write_text("#!/bin/sh\necho noise >&2\necho 'initdb: error: no room' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(embedded, "_binaries", lambda: tmp_path)
    monkeypatch.setattr(embedded, "_as_postgres", list)
    with pytest.raises(BadSetting, match=r"initdb failed in .*: initdb: error: no room$"):
        embedded.prepare(tmp_path / "var")
    assert not (tmp_path / "var" / "postgres").exists()


def test_a_cluster_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(BadSetting, match="made by PostgreSQL 16"):
        embedded.prepare(tmp_path)


def test_a_missing_wheel_says_what_to_install() -> None:
    with pytest.raises(BadSetting, match=r"install requirements\.txt"):
        embedded._wheel("no_such_wheel")
