"""Nobody writes a column: what a route does not know is refused by its name, wherever there is a body."""

import json
import re
from typing import Any

import pytest
from flask import Flask

from jobs.database import Database
from tests.web.conftest import Caller, rows, the_error
from tests.web.test_files import form
from tests.web.things import known
from web.operations import OPERATIONS

COLUMNS = [
    "id", "object", "state", "status", "owner", "owner_id", "user_id", "api_key_id", "scopes", "kind",
    "queue", "attempt", "failures", "crashes", "tier", "behind", "turn", "tokens", "seq", "reached",
    "lease_until", "worker", "claimed_by", "available_at", "cancel_requested_at", "paused_at",
    "created_at", "finished_at", "expires_at", "batch_id", "input_tokens", "output", "error",
    "progress", "receipt", "digest", "artifact", "secret", "is_admin", "admin", "limits", "__class__",
    "__proto__", "constructor",
]  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "responses.create": {"model": "starter", "input": "d", "background": True},
    "completions.create": {"model": "starter", "prompt": "d"},
    "chat.create": {"model": "org/chat", "messages": [{"role": "user", "content": "d"}]},
    "batches.create": {"endpoint": "/v1/responses", "completion_window": "24h"},
    "fine_tuning.create": {"model": "starter"},
    "exports.create": {},
    "webhooks.create": {"name": "a", "url": "https://a.invalid/", "event_types": ["batch.completed"]},
    "webhooks.change": {"name": "b"},
    "webhooks.rotate_secret": {},
    "webhooks.test": {"event_type": "batch.completed"},
}
SPOILT = {"role": "user", "content": "d", "owner_id": 1}
SHAPE = {"n_layer": 1, "n_head": 1, "n_embd": 8, "owner_id": 1}


@pytest.fixture
def ids(caller: Caller) -> dict[str, str]:
    return known(caller)


def takers(app: Flask) -> dict[str, tuple[str, str]]:
    """Method and URL of every operation with a JSON body."""
    found = {}
    for rule in app.url_map.iter_rules():
        operation = OPERATIONS.get(rule.endpoint)
        if operation is not None and operation.body is not None and rule.endpoint != "files.create":
            found[rule.endpoint] = ("POST", rule.rule)
    return found


def test_no_route_lets_a_column_be_written(
    app: Flask, caller: Caller, ids: dict[str, str], offered: Database
) -> None:
    found = takers(app)
    assert found.keys() == BODIES.keys(), "say here what a good body of the new route is"
    before = rows(offered)
    for endpoint, (method, rule) in found.items():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: ids[found[1]], rule)
        good = BODIES[endpoint]
        if endpoint == "batches.create":
            good = good | {"input_file_id": ids["file_id"]}
        if endpoint == "fine_tuning.create":
            good = good | {"training_file": ids["training_file"]}
        for column in COLUMNS:
            for value in (1, "x", None):
                answer = caller.send(method, path, data=json.dumps(good | {column: value}))
                assert answer.status_code == 400, (endpoint, column, value, answer.text)
                error = answer.get_json()["error"]
                assert error["param"] == column, (endpoint, column, error)
                assert column in error["message"]
    assert rows(offered) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "starter", "input": [SPOILT]}),
        ("/v1/chat/completions", {"model": "org/chat", "messages": [SPOILT]}),
        ("/v1/fine_tuning/jobs", {"model": "starter", "hyperparameters": {"owner_id": 1}}),
        ("/v1/fine_tuning/jobs", {"model": "starter", "init": "scratch", "architecture": SHAPE}),
        ("/v1/fine_tuning/jobs", {"model": "starter", "method": {"type": "supervised", "owner_id": 1}}),
    ],
)
def test_nor_inside_of_what_a_body_holds(
    caller: Caller, ids: dict[str, str], offered: Database, path: str, body: dict[str, Any]
) -> None:
    before = rows(offered)
    if "fine_tuning" in path:
        body = body | {"training_file": ids["training_file"]}
    answer = caller.post(path, **body)
    assert answer.status_code == 400, answer.text
    assert answer.get_json()["error"]["param"].endswith("owner_id")
    assert rows(offered) == before


def test_nor_by_the_query_nor_by_a_form(
    app: Flask, caller: Caller, ids: dict[str, str], offered: Database
) -> None:
    before = rows(offered)
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/v1"):
            path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: ids[found[1]], rule.rule)
            for method in sorted((rule.methods or set()) & {"GET", "POST", "DELETE"}):
                answer = caller.send(method, f"{path}?owner_id=1")
                error = the_error(answer, 400, answer.get_json()["error"]["code"])
                assert error["param"] == "owner_id" or error["code"] == "unsupported_content_type", (
                    method,
                    path,
                    error,
                )
    parts = (("purpose", "user_data", None), ("owner_id", "1", None), ("file", b"x", "a.txt"))
    kind = "multipart/form-data; boundary=the-boundary"
    answer = caller.send("POST", "/v1/files", data=form(*parts), Content_Type=kind)
    assert the_error(answer, 400, "unknown_parameter")["param"] == "owner_id"
    assert rows(offered) == before
