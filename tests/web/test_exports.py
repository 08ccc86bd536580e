"""`/v1/models/{model}/export`: accepted, waited for, cancelled, and what is said before anything is tried."""

import threading
import time
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from jobs import claims, keys, lifecycle, trainers
from jobs.attempts import ClaimedJob, Ending
from jobs.database import Database
from jobs.errors import HubFailed
from jobs.queue import QueueName, make_signals
from jobs.settings import Settings
from jobs.signals import ENDED
from jobs.tables import model_versions
from jobs.trainers import Trainer
from tests.web.conftest import Caller, rows, the_error

MINE = "ft:starter:org-1:mine:0123"


@pytest.fixture
def mine(offered: Database, caller: Caller) -> str:
    """A fine-tuned model of somebody, that no worker offers."""
    with offered.transaction() as connection:
        owner = connection.execute(text("SELECT id FROM owners WHERE name = 'somebody'")).scalar_one()
        base = connection.execute(select(model_versions).where(model_versions.c.name == "starter")).one()
        values = {**base._mapping, "name": MINE, "owner_id": owner, "job_id": "ftjob-1"}
        del values["id"]
        connection.execute(insert(model_versions).values(**values))
    return MINE


def export(caller: Caller, model: str = "starter", **asked: Any) -> dict[str, Any]:
    answer = caller.post(f"/v1/models/{model}/export", **asked)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.get_json()
    return made


def claim(database: Database, settings: Settings) -> ClaimedJob:
    with database.transaction() as connection:
        job = claims.claim_any(connection, QueueName.EXPORT, "trainer", settings.lease)
    assert job is not None
    return job


def settle(
    database: Database, job: ClaimedJob, output: dict[str, Any], error: HubFailed | None = None
) -> None:
    with database.transaction() as connection:
        assert lifecycle.settle(connection, [Ending(job.claim, output=output, error=error)])


def report(database: Database, refused: dict[str, str]) -> None:
    with database.transaction() as connection:
        trainers.report(connection, Trainer("host", "cpu", ["fp32"], refused, {}, 1))


@pytest.fixture(autouse=True)
def _no_trainers(offered: Database) -> None:
    with offered.transaction() as connection:
        connection.execute(text("DELETE FROM trainers"))


def test_an_export_is_a_job_that_its_owner_polls(
    caller: Caller, offered: Database, settings: Settings
) -> None:
    made = export(caller, "org/chat")
    assert made["id"].startswith("export-")
    assert made == {
        "id": made["id"],
        "object": "model.export",
        "created_at": made["created_at"],
        "finished_at": None,
        "status": "queued",
        "model": "org/chat",
        "file_id": None,
        "hub": None,
        "space": None,
        "error": None,
        "cancel_ms": None,
    }
    url = f"/v1/models/org/chat/exports/{made['id']}"
    job = claim(offered, settings)
    assert (job.model, job.input) == ("org/chat", {"push_to_hub": None, "space": None, "private": True})
    assert caller.get(url).get_json()["status"] == "running"
    settle(offered, job, {"file_id": "file-1", "hub": None, "space": None})
    ended = caller.get(url).get_json()
    assert (ended["status"], ended["file_id"]) == ("succeeded", "file-1")
    assert ended["finished_at"] >= ended["created_at"]
    assert caller.get("/v1/models/org/chat/export").get_json() == ended


def test_the_newest_export_is_the_one_of_that_model(caller: Caller) -> None:
    the_error(caller.get("/v1/models/starter/export"), 404, "export_not_found")
    first, second = export(caller), export(caller)
    export(caller, "org/chat")
    assert first["id"] != second["id"]
    assert caller.get("/v1/models/starter/export").get_json()["id"] == second["id"]
    assert caller.get(f"/v1/models/org/chat/exports/{second['id']}").status_code == 404


def test_one_s_own_model_can_be_exported_though_no_worker_offers_it(caller: Caller, mine: str) -> None:
    assert export(caller, mine)["model"] == mine
    missing = the_error(caller.post("/v1/models/gpt-9/export"), 404, "model_not_found")
    assert "does not exist" in missing["message"]


def test_a_model_that_is_being_exported_is_kept(caller: Caller, mine: str) -> None:
    made = export(caller, mine)
    error = the_error(caller.delete(f"/v1/models/{mine}"), 409, "model_in_use")
    assert made["id"] in error["message"]
    caller.post(f"/v1/models/{mine}/exports/{made['id']}/cancel")
    assert caller.delete(f"/v1/models/{mine}").status_code == 200
    cancelled = caller.get(f"/v1/models/{mine}/exports/{made['id']}").get_json()
    assert (cancelled["status"], cancelled["cancel_ms"]) == ("cancelled", 0.0)


def test_a_body_is_not_needed(caller: Caller) -> None:
    assert caller.send("POST", "/v1/models/starter/export").status_code == 200
    assert caller.send("POST", "/v1/models/starter/export", Content_Type=None).status_code == 200


def test_a_create_that_is_sent_again_is_one_export(caller: Caller, offered: Database) -> None:
    sent = [
        caller.send("POST", "/v1/models/starter/export", data="{}", Idempotency_Key="once") for _ in range(2)
    ]
    assert sent[0].get_json()["id"] == sent[1].get_json()["id"]
    assert rows(offered) == 1
    other = caller.send(
        "POST", "/v1/models/starter/export", data='{"private": false}', Idempotency_Key="once"
    )
    the_error(other, 422, "idempotency_key_reused")


def test_whoever_waits_hears_of_the_end_at_once(
    caller: Caller, offered: Database, settings: Settings
) -> None:
    made = export(caller)
    job = claim(offered, settings)

    def end() -> None:
        settle(offered, job, {"file_id": "file-1"})
        signals = make_signals(settings)
        signals.hint(ENDED, [made["id"]])
        signals.close()

    timer = threading.Timer(0.3, end)
    timer.start()
    began = time.monotonic()
    ended = caller.get(f"/v1/models/starter/exports/{made['id']}?wait=20").get_json()
    timer.join()
    assert ended["status"] == "succeeded"
    assert time.monotonic() - began < 10


def test_a_queued_export_is_cancelled_at_once_and_a_running_one_told(
    caller: Caller, offered: Database, settings: Settings
) -> None:
    queued, running = export(caller), export(caller, "org/chat")
    url = "/v1/models/{model}/exports/{id}/cancel"
    assert caller.post(url.format(**queued)).get_json()["status"] == "cancelled"
    job = claim(offered, settings)
    assert caller.post(url.format(**running)).get_json()["status"] == "running"
    with offered.transaction() as connection:
        assert lifecycle.unwanted(connection, [job.claim]) == {job.claim}


def test_a_push_that_failed_still_has_its_file(caller: Caller, offered: Database, settings: Settings) -> None:
    made = export(caller, push_to_hub="me/poems")
    settle(
        offered, claim(offered, settings), {"file_id": "file-1", "hub": None}, HubFailed("The Hub is away.")
    )
    ended = caller.get(f"/v1/models/starter/exports/{made['id']}").get_json()
    assert (ended["status"], ended["file_id"]) == ("failed", "file-1")
    assert ended["error"] == {"code": "hub_failed", "message": "The Hub is away."}


@pytest.mark.parametrize("field", ["push_to_hub", "space"])
def test_a_push_without_a_token_is_refused_at_the_door(caller: Caller, offered: Database, field: str) -> None:
    report(offered, {"hub": "Pushing needs a token."})
    answer = caller.post("/v1/models/starter/export", **{field: "me/poems"})
    error = the_error(answer, 400, "hub_token_missing")
    assert (error["message"], error["param"]) == ("Pushing needs a token.", field)
    assert export(caller)["status"] == "queued", "without a push no token is needed"
    report(offered, {})
    assert export(caller, **{field: "me/poems"})["status"] == "queued"


BAD = [
    ({"push_to_hub": "poems"}, "push_to_hub", "invalid_value"),
    ({"push_to_hub": "me/po ems"}, "push_to_hub", "invalid_value"),
    ({"push_to_hub": "me/../poems"}, "push_to_hub", "invalid_value"),
    ({"push_to_hub": "me/" + "a" * 96}, "push_to_hub", "invalid_value"),
    ({"space": "me/-poems"}, "space", "invalid_value"),
    ({"space": "me/poems\n"}, "space", "invalid_value"),
    ({"space": 7}, "space", "invalid_type"),
    ({"private": "yes"}, "private", "invalid_type"),
    ({"push_to_hug": "me/poems"}, "push_to_hug", "unknown_parameter"),
]


@pytest.mark.parametrize(("asked", "param", "code"), BAD)
def test_what_cannot_be_a_repository_is_refused(
    caller: Caller, offered: Database, asked: dict[str, Any], param: str, code: str
) -> None:
    error = the_error(caller.post("/v1/models/starter/export", **asked), 400, code)
    assert error["param"] == param
    assert rows(offered) == 0


def test_who_may_only_generate_takes_no_model_away(app: Any, offered: Database) -> None:
    with offered.transaction() as connection:
        generating, training = (
            keys.issue(connection, "somebody", [one]) for one in ("inference", "training")
        )
    refused = the_error(Caller(app, generating).post("/v1/models/starter/export"), 403, None)
    assert "does not allow training" in refused["message"]
    assert Caller(app, training).post("/v1/models/starter/export").status_code == 200
