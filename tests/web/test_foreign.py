"""Whatever belongs to somebody else is answered exactly as what is not there: every route with an id."""

import json
import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import insert, select, text
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from jobs.database import Database
from jobs.tables import model_versions, offers
from tests.web.conftest import Caller
from tests.web.things import known

BODIES: dict[str, dict[str, Any]] = {
    "webhooks.change": {"name": "mine now"},
    "webhooks.test": {"event_type": "batch.completed"},
}
OF_THE_REQUEST = {"x-request-id", "openai-processing-ms", "date"}
NOBODY_S = "ft:starter:never:x:1/2"


@pytest.fixture
def foreign(app: Flask, stranger: Caller, offered: Database) -> dict[str, str]:
    """What somebody else has."""
    ids = known(stranger) | {"model": "ft:starter:other:x:1/2"}
    with offered.transaction() as connection:
        owner = connection.execute(text("SELECT id FROM owners WHERE name = 'somebody else'")).scalar_one()
        base = select(model_versions).where(model_versions.c.name == "starter")
        values = dict(connection.execute(base).one()._mapping)
        del values["id"]
        mine = values | {"name": ids["model"], "owner_id": owner, "job_id": ids["job_id"]}
        made = insert(model_versions).values(**mine).returning(model_versions.c.id)
        version = connection.execute(made).scalar_one()
        offer = {"worker": "other", "name": ids["model"], "version_id": version, "slots": 8}
        connection.execute(insert(offers).values(**offer))
    app.extensions["penstock"].offers.forget()
    exported = stranger.post(f"/v1/models/{ids['model']}/export")
    assert exported.status_code == 200, exported.text
    return ids | {"export_id": exported.get_json()["id"]}


def absent(name: str) -> str:
    """A name of the same kind that nothing has."""
    if name.startswith("ft:"):
        return NOBODY_S
    return re.sub(r"[0-9a-f]{24,}", lambda found: "0" * len(found[0]), name)


def told(answer: TestResponse, *names: str) -> tuple[int, bytes, set[tuple[str, str]]]:
    """What an answer gives away, beside the names that it repeats."""
    headers = {(k.lower(), v) for k, v in answer.headers if k.lower() not in OF_THE_REQUEST}
    said = answer.data
    for name in names:
        said = said.replace(name.encode(), b"ID")
    return answer.status_code, said, headers


def test_somebody_else_s_is_not_there_on_any_route(
    app: Flask, caller: Caller, stranger: Caller, foreign: dict[str, str]
) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/v1") and rule.arguments]
    assert len(rules) >= 20
    order = {"GET": 0, "POST": 1, "DELETE": 2}
    for rule in rules:
        theirs = {argument: foreign[argument] for argument in rule.arguments}
        missing_ones = {argument: absent(name) for argument, name in theirs.items()}
        strange_ones = dict.fromkeys(theirs, "%00")
        for method in sorted(set(rule.methods or ()) & set(order), key=order.__getitem__):
            answers = [send(caller, method, rule, names) for names in (theirs, missing_ones)]
            seen, missing = told(answers[0], *theirs.values()), told(answers[1], *missing_ones.values())
            assert seen == missing, (method, rule.rule)
            assert seen[0] == 404, (method, rule.rule, answers[0].text)
            strange = send(caller, method, rule, strange_ones)
            assert strange.status_code == 404, (method, rule.rule, strange.text)
    for rule in rules:  # it was there, and still is
        if "GET" in (rule.methods or ()):
            answer = send(stranger, "GET", rule, foreign)
            assert answer.status_code == 200, (rule.rule, answer.text)


def send(caller: Caller, method: str, rule: Rule, names: dict[str, str]) -> TestResponse:
    body = BODIES.get(rule.endpoint, {}) if method == "POST" else None
    path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: names[found[1]], rule.rule)
    return caller.send(method, path, data=None if body is None else json.dumps(body))


NAMING: list[tuple[str, str, dict[str, Any], str]] = [
    ("/v1/responses", "previous_response_id", {"model": "org/chat", "input": "a"}, "response_id"),
    ("/v1/responses", "model", {"input": "a", "background": True}, "model"),
    ("/v1/completions", "model", {"prompt": "a"}, "model"),
    ("/v1/chat/completions", "model", {"messages": [{"role": "user", "content": "a"}]}, "model"),
    (
        "/v1/batches",
        "input_file_id",
        {"endpoint": "/v1/completions", "completion_window": "24h"},
        "file_id",
    ),
    ("/v1/fine_tuning/jobs", "training_file", {"model": "starter"}, "training_file"),
    ("/v1/fine_tuning/jobs", "model", {"training_file": "file-none"}, "model"),
]


@pytest.mark.parametrize(("path", "field", "body", "kind"), NAMING, ids=lambda one: str(one)[:40])
def test_somebody_else_s_cannot_be_named_in_a_body(
    caller: Caller, foreign: dict[str, str], path: str, field: str, body: dict[str, Any], kind: str
) -> None:
    theirs = foreign[kind]
    answers = [caller.post(path, **body, **{field: name}) for name in (theirs, absent(theirs))]
    seen, missing = told(answers[0], theirs), told(answers[1], absent(theirs))
    assert seen == missing
    assert seen[0] in (400, 404)


PAGES = [
    ("/v1/responses", "response_id"),
    ("/v1/files", "file_id"),
    ("/v1/batches", "batch_id"),
    ("/v1/fine_tuning/jobs", "job_id"),
    ("/v1/webhook_endpoints", "endpoint_id"),
]


@pytest.mark.parametrize(("path", "kind"), PAGES)
def test_no_list_goes_on_after_what_is_somebody_else_s(
    caller: Caller, foreign: dict[str, str], path: str, kind: str
) -> None:
    theirs = foreign[kind]
    assert caller.get(path).get_json()["data"] == []
    answers = [caller.get(f"{path}?after={name}") for name in (theirs, absent(theirs))]
    assert told(answers[0], theirs) == told(answers[1], absent(theirs))
    assert answers[0].status_code == 404
    assert caller.get(f"{path}?after=%00").status_code == 400


def test_no_list_of_models_shows_somebody_else_s(
    caller: Caller, stranger: Caller, foreign: dict[str, str]
) -> None:
    seen = [{model["id"] for model in one.get("/v1/models").get_json()["data"]} for one in (caller, stranger)]
    assert seen[1] - seen[0] == {foreign["model"]}
