"""`GET /v1/usage`: who used what, and who may see it."""

from datetime import UTC, datetime

import pytest
from flask import Flask

from jobs import keys
from jobs.database import Database
from tests.web.conftest import Caller, FakeWorker, issue, output, the_error


def today() -> str:
    return str(datetime.now(UTC).date())


def test_a_key_sees_what_its_owner_used(
    app: Flask, caller: Caller, key: str, stranger: Caller, worker: FakeWorker, offered: Database
) -> None:
    assert caller.get("/v1/usage").get_json()["data"] == []
    caller.post("/v1/responses", model="starter", input="d", background=True)
    worker.one(output("t", prompt_tokens=5))
    (used,) = caller.get("/v1/usage").get_json()["data"]
    assert used.pop("worker_seconds") >= 0
    expected = {"object": "usage", "day": today(), "key": key[:24]}
    assert used == expected | {"jobs": 1, "input_tokens": 5, "output_tokens": 2}
    assert Caller(app, issue(offered, "somebody")).get("/v1/usage").get_json()["data"] == [
        used | {"worker_seconds": pytest.approx(0, abs=30)}
    ], "an owner's other key sees it as well"
    assert stranger.get("/v1/usage").get_json()["data"] == []


def test_admin_sees_everybody_with_names(
    app: Flask, caller: Caller, stranger: Caller, worker: FakeWorker, offered: Database
) -> None:
    for one in (caller, stranger):
        one.post("/v1/responses", model="starter", input="d", background=True)
        worker.one(output("t"))
    with offered.transaction() as connection:
        admin = Caller(app, keys.issue(connection, "root", ["admin"]))
    body = admin.get(f"/v1/usage?start={today()}&end={today()}").get_json()
    assert [used["owner"] for used in body["data"]] == ["somebody", "somebody else"]
    assert not body["has_more"]
    assert admin.get("/v1/usage?limit=1").get_json()["has_more"]
    assert admin.get("/v1/usage?end=2020-01-01").get_json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start=yesterday", "start"),
        ("start=2026-11-21&end=2026-11-20", "start"),
        ("end=2026-02-30", "end"),
        ("limit=0", "limit"),
        ("owner=bob", "owner"),
        ("end=0001-01-01", "end"),
        ("start=5", "start"),
        ("end=2000-01-01T00:00:00", "end"),
    ],
)
def test_a_wrong_question_is_explained(caller: Caller, query: str, param: str) -> None:
    answer = caller.get(f"/v1/usage?{query}")
    code = answer.get_json()["error"]["code"]
    assert the_error(answer, 400, code)["param"] == param
    assert code in ("invalid_value", "integer_below_min_value", "unknown_parameter")
