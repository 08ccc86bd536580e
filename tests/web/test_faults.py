"""What a client sees while Redis or PostgreSQL is away, and when a request crashes."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from jobs import embedded
from jobs.database import Database
from jobs.settings import Settings
from tests.conftest import wait_for
from tests.web.conftest import Caller, FakeWorker, opened, output, rows, the_error


@pytest.fixture
def no_redis(settings: Settings, tmp_path: Path) -> Settings:
    """Settings whose Redis is not there."""
    return Settings(var_dir=settings.var_dir, redis_url=f"unix://{tmp_path}/redis.sock")


@pytest.fixture
def beside_frozen_redis(settings: Settings, offered: Database, tmp_path: Path) -> Iterator[Flask]:
    """An application whose Redis takes connections and never answers."""
    for folder in (embedded.run_folder(tmp_path), tmp_path / "redis"):
        folder.mkdir(exist_ok=True)
    process = subprocess.Popen(embedded.redis_command(tmp_path), stdout=subprocess.DEVNULL)
    wait_for((embedded.run_folder(tmp_path) / "redis.sock").exists)
    process.send_signal(signal.SIGSTOP)
    with opened(Settings(var_dir=settings.var_dir, redis_url=embedded.redis_url(tmp_path))) as app:
        yield app
        process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait()


@pytest.fixture
def no_database(settings: Settings) -> Settings:
    """Settings whose PostgreSQL is not there."""
    return Settings(var_dir=settings.var_dir, database_url="postgresql://penstock@127.0.0.1:1/postgres")


def test_without_redis_jobs_are_taken_at_once_and_run(
    no_redis: Settings, offered: Database, key: str, worker: FakeWorker
) -> None:
    with opened(no_redis) as app:
        caller = Caller(app, key)
        for _ in range(10):
            start = time.monotonic()
            made = caller.post("/v1/responses", model="starter", input="d", background=True)
            assert made.status_code == 200
            assert time.monotonic() - start < 1
        worker.start(lambda job: output("t"))
        start = time.monotonic()
        last = caller.get(f"/v1/responses/{made.get_json()['id']}?wait=20").get_json()
        assert last["status"] == "completed"
        assert caller.post("/v1/completions", model="starter", prompt="a").status_code == 200
        assert time.monotonic() - start < 5


def test_a_frozen_redis_delays_nobody(beside_frozen_redis: Flask, key: str) -> None:
    caller = Caller(beside_frozen_redis, key)
    for _ in range(5):
        start = time.monotonic()
        answer = caller.post("/v1/responses", model="starter", input="d", background=True)
        assert answer.status_code == 200
        assert time.monotonic() - start < 1
    start = time.monotonic()
    assert caller.get("/readyz").get_json()["status"] == "degraded"
    assert time.monotonic() - start < 1  # a probe gives up after a second


def test_without_redis_the_process_is_ready_but_degraded(
    no_redis: Settings, offered: Database, key: str
) -> None:
    with opened(no_redis) as app:
        answer = Caller(app, None).get("/readyz")
        assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
        assert (answer.get_json()["database"], answer.get_json()["redis"]) == (True, False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/responses"),
        ("GET", "/v1/responses/resp_0"),
        ("GET", "/v1/models"),
    ],
)
def test_without_a_database_nothing_is_accepted(no_database: Settings, method: str, path: str) -> None:
    with opened(no_database) as app:
        start = time.monotonic()
        answer = Caller(app, "sk-penstock-any").send(method, path, data='{"model": "starter", "input": "d"}')
        assert time.monotonic() - start < 5
        assert the_error(answer, 503, "database_unavailable")["type"] == "server_error"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60


def test_a_database_that_goes_away_is_a_503_for_those_who_are_known(
    settings: Settings, offered: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(settings) as app:
        caller, backend = Caller(app, key), app.extensions["penstock"]
        assert caller.get("/v1/models").status_code == 200  # the key and the catalog are remembered now
        gone = Database("postgresql+psycopg://penstock@127.0.0.1:1/postgres")
        with monkeypatch.context() as away:
            for pool in ("engine", "_plain"):
                away.setattr(backend.database, pool, getattr(gone, pool))
            for body in ({"input": "d", "background": True}, {"input": "d"}):
                answer = caller.post("/v1/responses", model="starter", **body)
                the_error(answer, 503, "database_unavailable")
        gone.close()
    assert rows(offered) == 0


def test_without_a_database_the_process_is_alive_and_not_ready(no_database: Settings) -> None:
    with opened(no_database) as app:
        assert Caller(app, None).get("/healthz").status_code == 200
        answer = Caller(app, None).get("/readyz")
        assert (answer.status_code, answer.get_json()["status"]) == (503, "unavailable")
        assert answer.headers["Retry-After"]


def test_a_crash_shows_no_trace(settings: Settings, offered: Database, key: str) -> None:
    with opened(settings) as app:
        app.add_url_rule("/crash", view_func=lambda: 1 / 0)
        answer = Caller(app, key).get("/crash")
        assert the_error(answer, 500, None)["type"] == "server_error"
        assert "ZeroDivision" not in answer.text
