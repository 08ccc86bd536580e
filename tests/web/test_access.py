"""Who may see what: keys, their owners, and everybody else."""

import time

import pytest
from flask import Flask

from jobs import keys
from jobs.database import Database
from tests.conftest import wait_for
from tests.web.conftest import Caller, rows, the_error
from web import auth

PUBLIC = {"/", "/healthz", "/readyz", "/static/<path:filename>", "/openapi.json", "/docs", "/docs/<name>"}


def routes(app: Flask) -> list[tuple[str, str]]:
    """Every method and URL that needs a key."""
    return [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.rule not in PUBLIC
        for method in sorted(rule.methods or ())
    ]


@pytest.mark.parametrize("wrong", [None, "", "x", "sk-penstock-0123456789ab-" + "x" * 43])
def test_every_route_needs_a_key(app: Flask, offered: Database, wrong: str | None) -> None:
    for method, rule in [*routes(app), ("GET", "/v1/nothing")]:
        answer = Caller(app, wrong).send(method, rule)
        assert answer.status_code == 401
        if method != "HEAD":
            the_error(answer, 401, "invalid_api_key" if wrong else "missing_api_key")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert rows(offered) == 0


def test_only_a_bearer_key_counts(app: Flask, key: str) -> None:
    for header in (key, f"Basic {key}", f"bearer{key}"):
        assert Caller(app, None).send("GET", "/v1/models", Authorization=header).status_code == 401
    assert Caller(app, None).send("GET", "/v1/models", Authorization=f"bearer {key}").status_code == 200


def test_a_key_that_is_wrong_at_its_end_says_no_more_than_any_other(app: Flask, key: str) -> None:
    near, far = (Caller(app, wrong).get("/v1/models") for wrong in (key[:-1] + "~", "nonsense"))
    assert near.get_json() == far.get_json()
    assert "whoever runs this server can make one" in near.get_json()["error"]["message"]


def test_a_revoked_key_stops_within_five_seconds(app: Flask, key: str, offered: Database) -> None:
    caller = Caller(app, key)
    assert caller.get("/v1/models").status_code == 200
    with offered.transaction() as connection:
        assert keys.revoke(connection, key)
    start = time.monotonic()
    wait_for(lambda: caller.get("/v1/models").status_code == 401, seconds=5)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("scope", ["inference", "training", "admin"])
def test_every_route_needs_a_scope_that_was_decided_for_it(app: Flask, offered: Database, scope: str) -> None:
    with offered.transaction() as connection:
        caller = Caller(app, keys.issue(connection, "somebody", [scope]))
    for method, rule in routes(app):
        subject = rule.removeprefix("/v1/").split("/")[0]
        assert subject in auth.SCOPES, f"say in web/auth.py which scopes {rule} needs"
        answer = caller.send(method, rule)
        allowed = scope in auth.scopes_of(rule)
        assert (answer.status_code == 403) is not allowed, (method, rule)
        if not allowed and method != "HEAD":
            assert "Use a key with that scope" in the_error(answer, 403, None)["message"]


def test_generating_fine_tuning_and_administration_are_apart() -> None:
    needs = {subject: scopes - {"admin"} for subject, scopes in auth.SCOPES.items()}
    assert needs.pop("fine_tuning") == {"training"}
    assert needs.pop("files") == needs.pop("usage") == {"inference", "training"}
    assert all(scopes == {"inference"} for scopes in needs.values())
    assert [subject for subject, scopes in auth.SCOPES.items() if "admin" in scopes] == ["usage"]
    assert auth.scopes_of("/v1/models/a/b/export") == auth.scopes_of("/v1/models/a/exports/1") == {"training"}
    assert auth.scopes_of("/v1/models/export") == auth.scopes_of("/v1/models/a/exported") == {"inference"}


def test_a_foreign_response_is_like_a_missing_one(app: Flask, caller: Caller, stranger: Caller) -> None:
    made = caller.post("/v1/responses", model="starter", input="d", background=True).get_json()
    missing = "resp_" + "0" * 32
    named = [(method, rule) for method, rule in routes(app) if "<response_id>" in rule]
    assert len(named) >= 3
    for method, rule in named:
        if method == "OPTIONS":
            continue
        foreign, gone = (
            stranger.send(method, rule.replace("<response_id>", name)) for name in (made["id"], missing)
        )
        assert foreign.status_code == gone.status_code == 404
        assert foreign.text.replace(made["id"], missing) == gone.text
    assert stranger.get("/v1/responses").get_json()["data"] == []
    assert stranger.get(f"/v1/responses?after={made['id']}").status_code == 404
    assert caller.get(f"/v1/responses/{made['id']}").get_json()["status"] == "queued"


def test_every_answer_has_a_request_id_and_safe_headers(app: Flask, caller: Caller) -> None:
    answers = [Caller(app, None).get(path) for path in ("/", "/healthz", "/readyz", "/v1/models", "/x")]
    answers.append(caller.get("/v1/models"))
    for answer in answers:
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    assert answers[-1].headers["Cache-Control"] == "no-store"
