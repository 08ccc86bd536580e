"""Which models there are, and what is said of one that could not be had."""

from io import BytesIO

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import Client, TestResponse

from jobs import catalog, claims
from jobs.database import Database
from jobs.queue import QueueName
from jobs.settings import Settings
from tests.web.conftest import Caller, FakeWorker, opened, output, rows, the_error


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


def fine_tune(database: Database, owner: str) -> str:
    """A fine-tuned model of an owner, offered by the worker that offers the others."""
    name = "ft:starter:org:mine:abc"
    made = text("""
        INSERT INTO model_versions (name, digest, quantization, parameters, context, vocab_size, eos_token_id,
          tokenizer, owner_id, job_id, lineage)
        SELECT :name, 'd', 'int8', 1, 64, 300, 0, tokenizer, (SELECT id FROM owners WHERE name = :owner), 'f',
          '{"base": "starter"}'
        FROM model_versions WHERE name = 'starter' RETURNING id""")
    offer = text("INSERT INTO offers (worker, name, version_id, slots) VALUES ('worker', :name, :id, 8)")
    with database.transaction() as connection:
        version = connection.execute(made, {"name": name, "owner": owner}).scalar_one()
        connection.execute(offer, {"name": name, "id": version})
    return name


def test_a_fine_tuned_model_is_its_owners_alone(
    settings: Settings, offered: Database, key: str, foreign_key: str
) -> None:
    name = fine_tune(offered, "somebody")
    with opened(settings) as app:
        owner, stranger = Caller(app, key), Caller(app, foreign_key)
        assert owner.get(f"/v1/models/{name}").get_json()["id"] == name
        shown = {model["id"]: model for model in owner.get("/v1/models").get_json()["data"]}
        assert shown[name] == owner.get(f"/v1/models/{name}").get_json()
        assert shown[name]["lineage"] == {"base": "starter"}
        assert shown[name]["owned_by"].startswith("org-")
        assert "lineage" not in shown["starter"]
        assert name not in stranger.get("/v1/models").text
        assert name not in Caller(app, None).get("/readyz").text
        for answer in (
            stranger.get(f"/v1/models/{name}"),
            stranger.delete(f"/v1/models/{name}"),
            stranger.post("/v1/responses", model=name, input="a", background=True),
        ):
            said = the_error(answer, 404, "model_not_found")["message"]
            assert said == f"The model '{name}' does not exist. Send one of 'org/chat', 'starter'."


def test_a_fine_tuned_model_is_deleted_once_nobody_needs_it(
    settings: Settings, offered: Database, key: str
) -> None:
    name = fine_tune(offered, "somebody")
    with opened(settings) as app:
        caller = Caller(app, key)
        made = caller.post("/v1/responses", model=name, input="a", background=True).get_json()
        refused = caller.delete(f"/v1/models/{name}")
        assert made["id"] in the_error(refused, 409, "model_in_use")["message"]
        assert refused.headers["x-should-retry"] == "false"
        caller.post(f"/v1/responses/{made['id']}/cancel")
        assert caller.delete(f"/v1/models/{name}").get_json() == {
            "id": name,
            "object": "model",
            "deleted": True,
        }
        the_error(caller.get(f"/v1/models/{name}"), 404, "model_not_found")


def test_a_model_whose_tokenizer_a_fine_tune_takes_is_not_deleted(
    settings: Settings, offered: Database, key: str
) -> None:
    name = fine_tune(offered, "somebody")
    with opened(settings) as app:
        caller = Caller(app, key)
        form = {"purpose": "fine-tune", "file": (BytesIO(b"a text"), "a.txt")}
        file_id = (
            Client(app, TestResponse)
            .post("/v1/files", data=form, headers={"Authorization": f"Bearer {key}"})
            .get_json()["id"]
        )
        made = caller.post(
            "/v1/fine_tuning/jobs",
            model="fresh",
            init="scratch",
            architecture="tiny",
            tokenizer=name,
            training_file=file_id,
        ).get_json()
        refused = the_error(caller.delete(f"/v1/models/{name}"), 409, "model_in_use")
        assert made["id"] in refused["message"]
        caller.send("POST", f"/v1/fine_tuning/jobs/{made['id']}/cancel")
        assert caller.delete(f"/v1/models/{name}").status_code == 200


def test_only_fine_tuned_models_are_deleted(caller: Caller) -> None:
    the_error(caller.delete("/v1/models/starter"), 403, "model_not_deletable")
    the_error(caller.delete("/v1/models/nope"), 404, "model_not_found")


@pytest.mark.parametrize("reason", ["It is being loaded.", "Its file is damaged."])
def test_a_fine_tuned_model_that_cannot_be_had_is_its_owners_secret_too(
    settings: Settings, offered: Database, key: str, foreign_key: str, reason: str
) -> None:
    name = fine_tune(offered, "somebody")
    broken = text("UPDATE offers SET version_id = NULL, reason = :reason WHERE name = :name")
    with offered.transaction() as connection:
        connection.execute(broken, {"reason": reason, "name": name})
    with opened(settings) as app:
        said = the_error(Caller(app, foreign_key).get(f"/v1/models/{name}"), 404, "model_not_found")
        assert said["message"] == f"The model '{name}' does not exist. Send one of 'org/chat', 'starter'."
        assert Caller(app, key).get(f"/v1/models/{name}").get_json()["error"]["message"] != said["message"]


def test_the_artifacts_of_a_deleted_model_are_looked_at(
    settings: Settings, offered: Database, key: str
) -> None:
    name = fine_tune(offered, "somebody")
    tokenizer = text("SELECT tokenizer FROM model_versions WHERE name = :name")
    with offered.transaction() as connection:
        artifact = connection.execute(tokenizer, {"name": name}).scalar_one()
        connection.execute(text("DELETE FROM loose_artifacts"))
    with opened(settings) as app:
        assert Caller(app, key).delete(f"/v1/models/{name}").status_code == 200
    with offered.transaction() as connection:
        assert connection.execute(text("SELECT artifact FROM loose_artifacts")).scalars().all() == [artifact]


def test_a_model_under_an_adapter_is_not_deleted(settings: Settings, offered: Database, key: str) -> None:
    name = fine_tune(offered, "somebody")
    over = text("""
        INSERT INTO model_versions (name, digest, quantization, parameters, context, vocab_size, eos_token_id,
          tokenizer, owner_id, job_id, base)
        SELECT 'ft:over', 'o', 'int8', 1, 64, 300, 0, tokenizer, owner_id, job_id, name
        FROM model_versions WHERE name = :name""")
    with offered.transaction() as connection:
        connection.execute(over, {"name": name})
    with opened(settings) as app:
        caller = Caller(app, key)
        error = the_error(caller.delete(f"/v1/models/{name}"), 409, "model_in_use")
        assert error["message"] == (
            f"The model '{name}' is the base of the adapter 'ft:over'. Delete that one first."
        )
        assert caller.delete("/v1/models/ft:over").status_code == 200, "offered by nobody, but there"
        assert caller.delete(f"/v1/models/{name}").status_code == 200


def test_a_model_that_was_published_just_now_is_awaited(
    settings: Settings, offered: Database, key: str, foreign_key: str
) -> None:
    name = fine_tune(offered, "somebody")
    with offered.transaction() as connection:
        connection.execute(text("DELETE FROM offers WHERE name = :name"), {"name": name})
    with opened(settings) as app:
        owner, stranger = Caller(app, key), Caller(app, foreign_key)
        the_error(stranger.get(f"/v1/models/{name}"), 404, "model_not_found")
        the_error(owner.get("/v1/models/ft:nope%00"), 404, "model_not_found")
        for answer in (owner.get(f"/v1/models/{name}"), owner.post("/v1/completions", model=name)):
            the_error(answer, 503, "model_loading")
        with offered.transaction() as connection:
            offer = text("""
                INSERT INTO offers (worker, name, version_id, slots)
                SELECT 'worker', name, id, 8 FROM model_versions WHERE name = :name""")
            connection.execute(offer, {"name": name})
        assert owner.get(f"/v1/models/{name}").status_code == 200, (
            "at once, though web remembers for a second"
        )


def test_what_a_deleted_model_wrote_can_still_be_read(
    settings: Settings, offered: Database, key: str, worker: FakeWorker
) -> None:
    name = fine_tune(offered, "somebody")
    logprobs = [{"token": 5, "logprob": -0.5, "top": []}]
    written = output("x") | {"model_digest": "d"}
    written["sequences"][0]["logprobs"] = logprobs
    with opened(settings) as app:
        caller = Caller(app, key)
        asked = {"model": name, "input": "d", "background": True, "stream": True, "top_logprobs": 1}
        with caller.post("/v1/responses", **asked):
            pass
        with offered.transaction() as connection:
            job_id = connection.execute(text("SELECT id FROM jobs")).scalar_one()
            (job,) = claims.claim(connection, QueueName.GENERATE, name, "w", settings.lease, 1)
        worker.settle(job, written)
        content = caller.get(f"/v1/responses/{job_id}").get_json()["output"][0]["content"][0]
        assert len(content["logprobs"]) == 1
        assert caller.delete(f"/v1/models/{name}").status_code == 200
    with opened(settings) as app:  # another process, which never saw the tokenizer
        caller = Caller(app, key)
        content = caller.get(f"/v1/responses/{job_id}").get_json()["output"][0]["content"][0]
        assert (content["text"], content["logprobs"]) == ("x", [])
        answer = caller.get(f"/v1/responses/{job_id}?stream=true")
        assert "was deleted" in the_error(answer, 404, "model_not_found")["message"]
