"""Keys: a stolen database opens nothing, guessing teaches nothing, and a revoked key is soon no key."""

import hashlib
import threading
import time

import httpx
import pytest
import redis
from flask import Flask
from sqlalchemy import event, text

from jobs import keys
from jobs.database import Database
from jobs.settings import Settings
from tests.conftest import wait_for
from tests.web.conftest import Caller, issue, the_error
from tests.web.test_gunicorn import Server
from tests.web.things import known


def dump(database: Database) -> str:
    """Every row of every table, as PostgreSQL writes it."""
    with database.transaction() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        names = [row.tablename for row in tables]
        assert {"api_keys", "jobs", "creates"} <= set(names)
        rows = [connection.execute(text(f'SELECT t::text FROM "{name}" t')).scalars() for name in names]
        return "\n".join(row for table in rows for row in table)


def remembered(settings: Settings) -> bytes:
    """All that Redis holds."""
    with redis.Redis.from_url(settings.redis) as client:
        names = list(client.scan_iter("*"))
        return b"\n".join([*names, *(client.dump(name) or b"" for name in names)])


def test_a_stolen_database_and_a_stolen_redis_hold_no_key(
    app: Flask, settings: Settings, offered: Database
) -> None:
    with offered.transaction() as connection:
        limits = keys.Limits(requests_per_minute=1000, tokens_per_minute=100_000)
        key = keys.issue(connection, "somebody", limits=limits)
    caller = Caller(app, key)
    known(caller)
    body = '{"model": "starter", "input": "d", "background": true}'
    assert caller.send("POST", "/v1/responses", data=body, Idempotency_Key="once").status_code == 200
    secret = key[keys._PREFIX_LENGTH + 1 :]
    stolen = dump(offered)
    assert hashlib.sha256(key.encode()).hexdigest() in stolen, "this is the row that a thief would find"
    for spelling in (secret, secret.encode().hex()):
        assert spelling not in stolen
        assert spelling.encode() not in remembered(settings)


def test_the_row_is_found_by_the_public_part_and_the_rest_is_compared_in_constant_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    compared: list[tuple[bytes, bytes]] = []
    event.listen(
        database.engine, "before_cursor_execute", lambda *given: asked.append(f"{given[2]} {given[3]}")
    )
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    with database.transaction() as connection:
        key = keys.issue(connection, "ann")
        asked.clear()
        wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
        assert keys.identify(connection, wrong) is None
        assert keys.identify(connection, key)
    assert [(len(a), len(b)) for a, b in compared] == [(32, 32)] * 2, "whole digests, never the keys"
    assert len(asked) == 2
    assert all(key[: keys._PREFIX_LENGTH] in one for one in asked)
    assert not any(key[keys._PREFIX_LENGTH + 1 : -1] in one for one in asked)


def test_every_key_that_does_not_work_is_answered_with_the_same_words(app: Flask, offered: Database) -> None:
    good, revoked = issue(offered, "somebody"), issue(offered, "somebody")
    with offered.transaction() as connection:
        assert keys.revoke(connection, revoked)
    wrong = [
        good[:-1] + "~",
        good[: keys._PREFIX_LENGTH],
        good.upper(),
        revoked,
        "sk-penstock-0123456789ab-" + "x" * 43,
        "x" * 10_000,
        "' OR 1=1 --",
        "\xe9" * 60,
        "%00",
    ]
    answers = [Caller(app, key).get("/v1/models") for key in wrong]
    said = {(answer.status_code, answer.text) for answer in answers}
    assert len(said) == 1
    assert "Incorrect API key" in the_error(answers[0], 401, "invalid_api_key")["message"]
    assert Caller(app, good).get("/v1/models").status_code == 200


def test_a_revoked_key_works_for_nobody_after_five_seconds_of_load(
    server: Server, key: str, offered: Database
) -> None:
    spared = issue(offered, "somebody")
    seen: list[tuple[float, int]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
            while not stop.is_set():
                sent = time.monotonic()
                seen.append((sent, client.get(f"{server.address}/v1/responses").status_code))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(seen) > 50)
    early = len(seen)
    with offered.transaction() as connection:
        assert keys.revoke(connection, key)
    revoked = time.monotonic()
    wait_for(lambda: seen[-1][0] > revoked + 6, seconds=60)
    stop.set()
    for thread in threads:
        thread.join()
    before = {status for _, status in seen[:early]}
    after = {status for sent, status in seen if sent > revoked + 5}
    assert (before, after) == ({200}, {401})
    sister = httpx.get(f"{server.address}/v1/models", headers={"Authorization": f"Bearer {spared}"})
    assert sister.status_code == 200


def test_nothing_on_the_public_port_administers(app: Flask, offered: Database) -> None:
    with offered.transaction() as connection:
        callers = [Caller(app, None)] + [
            Caller(app, keys.issue(connection, "root", [scope])) for scope in keys.SCOPES
        ]
    paths = ["metrics", "admin", "debug", "console", "keys", "owners", "api_keys", ".env", ".git/config"]
    for path in [*paths, *(f"v1/{path}" for path in paths)]:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            for caller in callers:
                answer = caller.send(method, f"/{path}")
                assert answer.status_code in (401, 403, 404, 405), (method, path, answer.text)
    with offered.transaction() as connection:
        assert len(keys.issued(connection)) == len(keys.SCOPES)
