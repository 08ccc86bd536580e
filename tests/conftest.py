"""The real PostgreSQL and Redis, once per test run, and an empty database for every test that asks."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from alembic import command
from sqlalchemy import text

from jobs import embedded, keys, signals
from jobs.database import Database
from jobs.settings import Settings
from stack.migrate import alembic_config

ROOT = Path(__file__).parents[1]
T = TypeVar("T")


def wait_for(seen: Callable[[], T], seconds: float = 20, every: float = 0.02) -> T:
    """Wait until `seen()` is true and return it; fail when the deadline passes."""
    deadline = time.monotonic() + seconds
    while not (value := seen()):
        assert time.monotonic() < deadline, f"not seen within {seconds} s"
        time.sleep(every)
    return value


@pytest.fixture(autouse=True)
def _no_dotenv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own; the tests must not see them."""
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session", autouse=True)
def _listeners_end_soon() -> None:
    """Every application that a test closes waits for its listeners, which look up once in so many seconds."""
    signals._POLL_SECONDS = 0.1


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A VAR_DIR with PostgreSQL, migrated, and Redis running in it."""
    var_dir = tmp_path_factory.mktemp("services")
    embedded.prepare(var_dir)
    commands = (embedded.postgres_command(var_dir), embedded.redis_command(var_dir))
    with (var_dir / "log" / "services.log").open("wb") as log:
        running = [subprocess.Popen(c, stdout=log, stderr=log, start_new_session=True) for c in commands]
    try:
        database = Database(embedded.postgres_url(var_dir))
        database.wait_until_up(20)
        database.close()
        wait_for(lambda: (embedded.run_folder(var_dir) / "redis.sock").exists())
        command.upgrade(alembic_config(embedded.postgres_url(var_dir)), "head")
        yield var_dir
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)  # PostgreSQL's fast stop: it waits for no connection
        for process in running:
            process.wait(timeout=20)


@pytest.fixture
def settings(services: Path, _no_dotenv: None) -> Settings:
    """Settings of a stack that lives in the services' folder."""
    return Settings(var_dir=services, log_level="WARNING")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """An empty database, and an empty Redis beside it."""
    database = Database(settings.database)
    with database.transaction() as connection:
        for table in (
            "offers",
            "model_versions",
            "trainers",
            "rates",
            "tier_turns",
            "loose_artifacts",
            "owners",
        ):  # the rest goes with them; TRUNCATE takes longer
            connection.execute(text(f"DELETE FROM {table}"))
    with redis.Redis.from_url(settings.redis) as client:
        client.flushall()
    yield database
    database.close()


@pytest.fixture
def owner(database: Database) -> int:
    """The id of an owner."""
    with database.transaction() as connection:
        identity = keys.identify(connection, keys.issue(connection, "somebody"))
    assert identity is not None
    return identity.owner_id
