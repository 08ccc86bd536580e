"""Which models there are, and what is said of one that could not be had."""

import pytest
from flask import Flask
from sqlalchemy import text

from jobs import catalog
from jobs.database import Database
from jobs.settings import Settings
from tests.web.conftest import Caller, opened, rows, the_error


def test_the_models_are_listed_and_shown(caller: Caller) -> None:
    body = caller.get("/v1/models").get_json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["org/chat", "starter"]
    for model in body["data"]:
        assert (model["object"], model["owned_by"], model["quantization"]) == ("model", "penstock", "int8")
        assert model["created"] > 1_700_000_000
        assert caller.get(f"/v1/models/{model['id']}").get_json() == model


def test_a_slash_in_a_name_may_be_encoded(caller: Caller) -> None:
    assert caller.get("/v1/models/org%2Fchat").get_json()["id"] == "org/chat"


@pytest.mark.parametrize("name", ["gpt-9", "a/b/c", "%00", "starter/", "%ff"])
def test_a_model_that_is_none_is_not_found(caller: Caller, name: str) -> None:
    assert the_error(caller.get(f"/v1/models/{name}"), 404, "model_not_found")["param"] == "model"


def test_a_model_that_could_not_be_had_says_why(caller: Caller) -> None:
    error = the_error(caller.get("/v1/models/gpt2"), 404, "model_not_found")
    assert error["message"] == "The model 'gpt2' is not available: the Hub could not be reached."


def test_the_process_is_alive_whatever_else_is(app: Flask) -> None:
    assert Caller(app, None).get("/healthz").get_json() == {"status": "alive"}


def test_readiness_names_every_model(app: Flask) -> None:
    answer = Caller(app, None).get("/readyz")
    available = {"status": "available", "quantization": "int8", "context": 64}
    assert answer.status_code == 200
    assert answer.get_json() == {
        "status": "ready",
        "database": True,
        "redis": True,
        "models": {
            "gpt2": {"status": "unavailable", "reason": "the Hub could not be reached."},
            "org/chat": available,
            "starter": available,
        },
    }


def test_a_model_that_is_being_loaded_is_awaited(settings: Settings, offered: Database, key: str) -> None:
    with offered.transaction() as connection:
        catalog.offer(connection, "another worker", [], {}, loading=["new", "starter"])
    with opened(settings) as app:
        caller = Caller(app, key)
        for path, name in (("/v1/responses", "input"), ("/v1/completions", "prompt")):
            answer = caller.post(path, model="new", **{name: "d"})
            error = the_error(answer, 503, "model_loading")
            assert (error["type"], error["param"]) == ("server_error", "model")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        models = caller.get("/readyz").get_json()["models"]
        assert models["new"] == {"status": "loading", "reason": "It is being loaded."}
        assert models["starter"]["status"] == "available"  # a worker has it already
        assert models["gpt2"]["status"] == "unavailable"
        assert [model["id"] for model in caller.get("/v1/models").get_json()["data"]] == [
            "org/chat",
            "starter",
        ]
    assert rows(offered) == 0


def test_without_a_worker_there_is_no_model(settings: Settings, offered: Database, key: str) -> None:
    with offered.transaction() as connection:
        connection.execute(text("DELETE FROM offers"))
    with opened(settings) as app:
        answer = Caller(app, key).post("/v1/completions", model="starter")
        assert "No worker offers" in the_error(answer, 404, "model_not_found")["message"]
        assert Caller(app, key).get("/v1/models").get_json()["data"] == []
