"""A finished response is shown from memory, but only to its owner and only while the row is as it was."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from jobs.database import Database
from tests.web.conftest import Caller, FakeWorker, output
from web import response_object, shown
from web.shown import Shown, Text


@pytest.fixture
def path(caller: Caller, worker: FakeWorker) -> str:
    """A finished response that was polled once."""
    made = caller.post("/v1/responses", model="starter", input="def", background=True)
    worker.one(output(" name():"))
    path = f"/v1/responses/{made.get_json()['id']}"
    assert caller.get(path).get_json()["status"] == "completed"
    return path


def test_a_second_poll_says_the_same_and_reads_nothing(
    caller: Caller, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = caller.get(f"{path}?stream=false")
    monkeypatch.setattr(response_object, "answer", None)
    second = caller.get(path)
    assert (second.status_code, second.data) == (200, first.data)
    assert {**second.headers, "x-request-id": "", "openai-processing-ms": ""} == {
        **first.headers,
        "x-request-id": "",
        "openai-processing-ms": "",
    }


def test_whoever_deleted_it_does_not_see_it(caller: Caller, path: str) -> None:
    assert caller.delete(path).status_code == 200
    assert caller.get(path).status_code == 404


def test_nobody_else_sees_it(app: Flask, foreign_key: str, path: str) -> None:
    assert Caller(app, foreign_key).get(path).status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("DELETE FROM jobs", 404),
        ("UPDATE jobs SET stored = false", 404),
        ("UPDATE jobs SET kind = 'completion'", 404),
    ],
)
def test_what_was_taken_away_behind_our_back_is_gone(
    caller: Caller, path: str, database: Database, change: str, status: int
) -> None:
    with database.transaction() as connection:
        connection.execute(text(change))
    assert caller.get(path).status_code == status


def test_a_row_that_changed_is_read_again(caller: Caller, path: str, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE jobs SET model = 'renamed'"))
    assert caller.get(path).get_json()["model"] == "renamed"
    assert caller.get(path).get_json()["model"] == "renamed"


def test_one_that_goes_on_is_read_each_time(caller: Caller, worker: FakeWorker) -> None:
    made: dict[str, Any] = caller.post(
        "/v1/responses", model="starter", input="def", background=True
    ).get_json()
    path = f"/v1/responses/{made['id']}"
    assert [caller.get(path).get_json()["status"] for _ in range(2)] == ["queued", "queued"]
    (job,) = worker.claim()
    assert caller.get(path).get_json()["status"] == "in_progress"
    worker.settle(job, output("x"))
    assert [caller.get(path).get_json()["status"] for _ in range(2)] == ["completed", "completed"]


def test_a_head_of_it_has_no_body(caller: Caller, path: str) -> None:
    answer = caller.send("HEAD", path)
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Content-Length"] == caller.get(path).headers["Content-Length"]


def test_where_there_is_no_room_the_first_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_MOST_BYTES", 10)
    monkeypatch.setattr(shown, "_LONGEST", 6)
    kept = Shown()
    for name, body in (("a", b"1234"), ("b", b"1234"), ("a", b"12345"), ("c", b"123"), ("d", b"1234567")):
        kept.keep(name, Text("1", body))
    found = {name: text.body for name in "abcd" if (text := kept.find(name)) is not None}
    assert found == {"a": b"12345", "c": b"123"}
