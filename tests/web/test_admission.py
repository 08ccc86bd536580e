"""Above a backlog creates are refused before any row is written; what was accepted is never touched."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import func, insert, select

from jobs import backlog, keys, submission
from jobs.attempts import Tier
from jobs.database import Database
from jobs.queue_tables import rates
from jobs.settings import Settings
from jobs.tables import owners
from tests.jobs import samples
from tests.web.conftest import Caller, opened, rows, the_error
from web import admission

ASKED = {"model": "starter", "input": "def ", "background": True}
RATE = 10.0  # tokens per second
LIMIT = 60.0  # seconds


@pytest.fixture
def limited(settings: Settings, offered: Database) -> Iterator[Flask]:
    """An application that takes a minute of work."""
    with opened(settings.model_copy(update={"max_backlog_seconds": LIMIT})) as app:
        yield app


@pytest.fixture
def busy(limited: Flask, key: str) -> Caller:
    """Somebody who asks it."""
    return Caller(limited, key)


Fill = Callable[..., None]


@pytest.fixture
def fill(offered: Database) -> Fill:
    """Let an owner's jobs wait, of so many tokens in all, at a known rate."""

    def fill(tokens: int, tier: Tier = Tier.STANDARD, owner: str = "somebody") -> None:
        with offered.transaction() as connection:
            keys.issue(connection, owner)
            owner_id = connection.execute(select(owners.c.id).where(owners.c.name == owner)).scalar_one()
            job = replace(samples.new(owner_id, f"waits {owner} {tier}", tier), tokens=tokens)
            submission.submit(connection, job)
            backlog.measure(connection)
            connection.execute(rates.delete())
            late = {"late50": 1.0, "late90": 2.0, "updated_at": func.now(), "stream_tokens_per_second": 1.0}
            speed = {"queue": "generate", "model": "starter", "tokens_per_second": RATE}
            connection.execute(insert(rates).values(**speed, **late))

    return fill


def test_above_the_limit_a_create_is_refused_before_any_row(
    busy: Caller, offered: Database, fill: Fill
) -> None:
    fill(650)
    answer = busy.post("/v1/responses", **ASKED)
    error = the_error(answer, 429, "backlog_full")
    assert error["type"] == "requests"
    assert "'starter'" in error["message"]
    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["x-should-retry"] == "true"
    assert rows(offered) == 1


def test_below_the_limit_it_comes_in(busy: Caller, fill: Fill) -> None:
    fill(550)
    assert busy.post("/v1/responses", **ASKED).status_code == 200


def test_with_a_limit_of_0_everything_comes_in(
    settings: Settings, offered: Database, key: str, fill: Fill
) -> None:
    fill(10_000_000)
    with opened(settings.model_copy(update={"max_backlog_seconds": 0.0})) as app:
        assert Caller(app, key).post("/v1/responses", **ASKED).status_code == 200


def test_nothing_is_refused_while_nobody_knows_how_fast_the_model_runs(
    busy: Caller, offered: Database, fill: Fill
) -> None:
    fill(1_000_000)
    with offered.transaction() as connection:
        connection.execute(rates.delete())
    assert busy.post("/v1/responses", **ASKED).status_code == 200


def test_what_was_accepted_since_the_snapshot_counts(
    busy: Caller, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_LOOK_SECONDS", 1000.0)
    fill(550)
    accepted = 0
    while busy.post("/v1/responses", **ASKED, max_output_tokens=20).status_code == 200:
        accepted += 1
        assert accepted < 500
    assert accepted >= 1, "there was room for 50 tokens"


def test_who_waits_on_the_connection_is_refused_for_those_who_do_alone(
    busy: Caller, offered: Database, fill: Fill
) -> None:
    fill(650, Tier.INTERACTIVE)
    for path, body in (
        ("/v1/responses", {"model": "starter", "input": "def "}),
        ("/v1/responses", {"model": "starter", "input": "def ", "stream": True}),
        ("/v1/completions", {"model": "starter", "prompt": "def "}),
    ):
        the_error(busy.post(path, **body), 429, "backlog_full")
    assert rows(offered) == 1


def test_a_retry_of_an_accepted_create_is_answered_with_its_job(
    busy: Caller, offered: Database, fill: Fill, limited: Flask
) -> None:
    body = json.dumps(ASKED)
    first = busy.send("POST", "/v1/responses", body, Idempotency_Key="a")
    assert first.status_code == 200
    fill(10_000)
    limited.extensions["penstock"].admission._lines.clear()
    again = busy.send("POST", "/v1/responses", body, Idempotency_Key="a")
    assert (again.status_code, again.get_json()["id"]) == (200, first.get_json()["id"])
    assert busy.send("POST", "/v1/responses", body, Idempotency_Key="b").status_code == 429
    assert busy.send("POST", "/v1/responses", body, x_stainless_retry_count="0").status_code == 429
    assert rows(offered) == 2


def test_an_owner_with_nothing_waiting_is_not_refused_for_the_flood_of_another(
    busy: Caller, limited: Flask, fill: Fill, foreign_key: str
) -> None:
    fill(1_000_000)
    assert busy.post("/v1/responses", **ASKED).status_code == 429
    assert Caller(limited, foreign_key).post("/v1/responses", **ASKED).status_code == 200


def test_batches_that_wait_do_not_shut_out_those_who_wait_for_an_answer(busy: Caller, fill: Fill) -> None:
    fill(1_000_000, Tier.BATCH)
    assert busy.post("/v1/responses", **ASKED).status_code == 200


def test_a_new_batch_is_refused_when_it_would_only_expire(busy: Caller, limited: Flask, fill: Fill) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": ASKED}
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n',
        json.dumps(line).encode() + b"\n\r\n--b--\r\n",
    ]
    form = {"Content_Type": "multipart/form-data; boundary=b"}
    file = busy.send("POST", "/v1/files", b"".join(parts), **form).get_json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "24h"}
    fill(int(RATE * admission.BATCH_SECONDS) - 100, Tier.BATCH)
    assert busy.post("/v1/batches", **asked).status_code == 200
    fill(1000, Tier.STANDARD)
    limited.extensions["penstock"].admission._lines.clear()
    the_error(busy.post("/v1/batches", **asked), 429, "backlog_full")
