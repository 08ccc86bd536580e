"""`/v1/fine_tuning`: accepted, waiting for its files, paused, cancelled, watched."""

import json
from io import BytesIO
from typing import Any

import pytest
from sqlalchemy import insert, text

from jobs import claims, finetunes, lifecycle, records, sweeper, training
from jobs.artifacts import ArtifactStore
from jobs.attempts import Ending
from jobs.database import Database
from jobs.files import NewFile
from jobs.files import create as create_file
from jobs.queue import QueueName
from jobs.settings import Settings
from jobs.tables import checkpoints
from tests.jobs.test_sweeper import Bells
from tests.web.conftest import Caller, the_error
from web import fine_tuning_review
from web.desk import Desk

JOBS = "/v1/fine_tuning/jobs"
OPENAIS = ("n_epochs", "batch_size", "learning_rate_multiplier")


def a_file(
    database: Database,
    settings: Settings,
    purpose: str = "fine-tune",
    content: bytes = b'{"text": "a"}\n',
    owner: str = "somebody",
) -> str:
    """A file that nobody has read yet."""
    artifact = ArtifactStore(settings.artifacts).put(content)
    with database.transaction() as connection:
        theirs = text("SELECT id FROM owners WHERE name = :name")
        owner_id = connection.execute(theirs, {"name": owner}).scalar_one()
        return create_file(connection, NewFile(owner_id, "a.jsonl", purpose, len(content), artifact)).id


def read(desk: Desk, file_id: str, errors: list[dict[str, Any]] | None = None) -> None:
    """Do what the clerk does with a file, and with those who wait for it."""
    values = {"status": "error" if errors else "processed", "errors": json.dumps(errors) if errors else None}
    with desk.database.transaction() as connection:
        change = "UPDATE files SET status = :status, errors = CAST(:errors AS json) WHERE id = :id"
        connection.execute(text(change), values | {"id": file_id})
        assert finetunes.any_ready(connection)
    fine_tuning_review.work(desk, large=False)
    with desk.database.transaction() as connection:
        assert not finetunes.any_ready(connection)


@pytest.fixture
def file_id(caller: Caller, offered: Database, settings: Settings) -> str:
    return a_file(offered, settings)


def create(caller: Caller, file_id: str, **more: Any) -> dict[str, Any]:
    answer = caller.post(JOBS, **{"model": "starter", "training_file": file_id} | more)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.get_json()
    return made


def claim(database: Database, settings: Settings) -> list[Any]:
    with database.transaction() as connection:
        return claims.claim(connection, QueueName.TRAIN, "starter", "trainer", settings.lease, 10)


def test_a_job_waits_for_its_file_and_then_for_the_trainer(
    caller: Caller, file_id: str, offered: Database, settings: Settings, desk: Desk
) -> None:
    made = create(caller, file_id, suffix="mine", seed=3)
    assert (made["status"], made["object"], made["suffix"]) == ("validating_files", "fine_tuning.job", "mine")
    assert [made["hyperparameters"][name] for name in OPENAIS] == ["auto"] * 3
    assert not any(name.startswith("lora_") for name in made["hyperparameters"])
    assert claim(offered, settings) == []
    read(desk, file_id)
    assert caller.get(f"{JOBS}/{made['id']}").get_json()["status"] == "queued"
    (job,) = claim(offered, settings)
    assert job.input["seed"] == 3
    assert caller.get(f"{JOBS}/{made['id']}").get_json()["status"] == "running"
    with offered.transaction() as connection:
        output = {"fine_tuned_model": "ft:starter:x", "trained_tokens": 7}
        lifecycle.settle(connection, [Ending(job.claim, output=output)])
    ended = caller.get(f"{JOBS}/{made['id']}").get_json()
    assert (ended["status"], ended["fine_tuned_model"], ended["trained_tokens"]) == (
        "succeeded",
        "ft:starter:x",
        7,
    )
    assert ended["finished_at"] >= ended["created_at"]


def test_a_job_of_a_file_that_was_read_before_waits_until_its_model_has_read_it(
    caller: Caller, file_id: str, offered: Database, settings: Settings, desk: Desk
) -> None:
    with offered.transaction() as connection:
        connection.execute(text("UPDATE files SET status = 'processed'"))
    made = create(caller, file_id)
    assert made["status"] == "validating_files"
    fine_tuning_review.work(desk, large=False)
    assert caller.get(f"{JOBS}/{made['id']}").get_json()["status"] == "queued"
    assert len(claim(offered, settings)) == 1


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_a_wrong_file_fails_its_job_with_the_line(
    caller: Caller, file_id: str, offered: Database, settings: Settings, param: str, desk: Desk
) -> None:
    other = a_file(offered, settings)
    made = (
        create(caller, other, validation_file=file_id)
        if param == "validation_file"
        else create(caller, file_id)
    )
    if param == "validation_file":
        with offered.transaction() as connection:
            connection.execute(text("UPDATE files SET status = 'processed' WHERE id = :id"), {"id": other})
    read(desk, file_id, [{"code": "invalid_json", "line": 3, "message": "It is no JSON.", "param": None}])
    ended = caller.get(f"{JOBS}/{made['id']}").get_json()
    assert ended["status"] == "failed"
    assert (ended["error"]["code"], ended["error"]["param"]) == (f"invalid_{param}", param)
    assert "line 3: It is no JSON." in ended["error"]["message"]
    events = caller.get(f"{JOBS}/{made['id']}/events").get_json()["data"]
    assert (events[0]["level"], events[0]["message"]) == ("error", ended["error"]["message"])


def test_a_pause_is_no_status_of_its_own(
    caller: Caller, file_id: str, offered: Database, settings: Settings, desk: Desk
) -> None:
    made = create(caller, file_id)
    paused = caller.send("POST", f"{JOBS}/{made['id']}/pause").get_json()
    assert paused["status"] == "queued"
    assert paused["paused_at"] is not None
    read(desk, file_id)
    assert claim(offered, settings) == []
    resumed = caller.send("POST", f"{JOBS}/{made['id']}/resume").get_json()
    assert (resumed["status"], resumed["paused_at"]) == ("queued", None)
    assert len(claim(offered, settings)) == 1
    assert caller.send("POST", f"{JOBS}/{made['id']}/pause").get_json()["status"] == "queued"


def test_a_cancelled_job_is_neither_paused_nor_resumed(caller: Caller, file_id: str) -> None:
    made = create(caller, file_id)
    for _ in range(2):
        cancelled = caller.send("POST", f"{JOBS}/{made['id']}/cancel").get_json()
        assert (cancelled["status"], cancelled["cancel_ms"]) == ("cancelled", 0.0)
    for wish in ("pause", "resume"):
        the_error(caller.send("POST", f"{JOBS}/{made['id']}/{wish}"), 400, "job_ended")


def test_jobs_are_listed_by_page_and_by_metadata(caller: Caller, file_id: str) -> None:
    blue = [create(caller, file_id, metadata={"team": "blue"})["id"] for _ in range(2)]
    red = create(caller, file_id, metadata={"team": "red"})["id"]
    first = caller.get(f"{JOBS}?limit=1").get_json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([red], True)
    rest = caller.get(f"{JOBS}?after={red}").get_json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([blue[1], blue[0]], False)
    found = caller.get(f"{JOBS}?metadata%5Bteam%5D=red").get_json()["data"]
    assert [one["id"] for one in found] == [red]


def test_events_tell_what_happened_the_newest_first(
    caller: Caller, file_id: str, offered: Database, settings: Settings, desk: Desk
) -> None:
    made = create(caller, file_id)
    read(desk, file_id)
    claim(offered, settings)
    with offered.transaction() as connection:
        finetunes.say(connection, records.read(connection, made["id"]), "Step 1.", data={"step": 1})
    page = caller.get(f"{JOBS}/{made['id']}/events?limit=2").get_json()
    metrics, running = page["data"]
    assert (metrics["type"], metrics["message"], metrics["data"]) == ("metrics", "Step 1.", {"step": 1})
    assert (running["type"], page["has_more"]) == ("message", True)
    rest = caller.get(f"{JOBS}/{made['id']}/events?after={running['id']}").get_json()
    assert [one["message"] for one in rest["data"]] == ["The fine-tuning job was created."]


def test_a_job_that_runs_shows_what_was_chosen_and_how_far_it_is(
    caller: Caller, file_id: str, offered: Database, settings: Settings, desk: Desk
) -> None:
    made = create(caller, file_id)
    read(desk, file_id)
    (job,) = claim(offered, settings)
    chosen = made["hyperparameters"] | {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0}
    progress = {
        "hyperparameters": chosen | {"lora_r": 8},
        "step": 5,
        "total_steps": 9,
        "trained_tokens": 320,
        "estimated_finish": 1_800_000_000,
        "train_told": 5,
    }
    with offered.transaction() as connection:
        assert training.report(connection, job.claim, [], progress)
    seen = caller.get(f"{JOBS}/{made['id']}").get_json()
    assert seen["hyperparameters"] == chosen == seen["method"]["supervised"]["hyperparameters"]
    assert seen["progress"] == {"step": 5, "total_steps": 9}
    assert (seen["trained_tokens"], seen["estimated_finish"]) == (320, 1_800_000_000)
    assert (seen["adapter"], seen["init"], seen["architecture"]) == ("full", "pretrained", None)
    output = {"fine_tuned_model": "ft:x", "trained_tokens": 576, "result_files": ["file-1", "file-2"]}
    with offered.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, output=output)])
    ended = caller.get(f"{JOBS}/{made['id']}").get_json()
    assert (ended["trained_tokens"], ended["estimated_finish"]) == (576, None)
    assert (ended["result_files"], ended["hyperparameters"]) == (["file-1", "file-2"], chosen)


def test_checkpoints_are_listed_the_newest_first(caller: Caller, file_id: str, offered: Database) -> None:
    made = create(caller, file_id)
    with offered.transaction() as connection:
        rows = [{"id": f"ftckpt_{step}", "job_id": made["id"], "step": step} for step in (10, 20)]
        connection.execute(insert(checkpoints).values(model="m", metrics={}), rows)
    page = caller.get(f"{JOBS}/{made['id']}/checkpoints?limit=1").get_json()
    assert ([one["step_number"] for one in page["data"]], page["has_more"]) == ([20], True)
    rest = caller.get(f"{JOBS}/{made['id']}/checkpoints?after=ftckpt_20").get_json()
    assert [one["step_number"] for one in rest["data"]] == [10]


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"training_file": "file-missing"}, "training_file", "file_not_found"),
        ({"validation_file": "file-missing"}, "validation_file", "file_not_found"),
        ({"model": "nope"}, "model", "model_not_found"),
        ({"suffix": ""}, "suffix", "empty_string"),
        ({"suffix": "a:b"}, "suffix", "invalid_value"),
        ({"seed": 2**31}, "seed", "integer_above_max_value"),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"rank": 1}}, "hyperparameters.rank", "unknown_parameter"),
        ({"method": {"type": "dpo"}}, "method.type", "unsupported_value"),
        ({"method": {"type": "supervised"}, "hyperparameters": {}}, "hyperparameters", "duplicate_parameter"),
        ({"webhook": "http://127.0.0.1/"}, "webhook", "invalid_url"),
        ({"status": "succeeded"}, "status", "unknown_parameter"),
    ],
)
def test_what_is_wrong_with_a_request(
    caller: Caller, file_id: str, changes: dict[str, Any], param: str, code: str
) -> None:
    answer = caller.post(JOBS, **{"model": "starter", "training_file": file_id} | changes)
    assert the_error(answer, 404 if code == "model_not_found" else 400, code)["param"] == param


def test_a_file_for_something_else_is_refused(caller: Caller, offered: Database, settings: Settings) -> None:
    other = a_file(offered, settings, purpose="batch")
    the_error(caller.post(JOBS, model="starter", training_file=other), 400, "invalid_file_purpose")


def test_a_refused_job_leaves_nothing(caller: Caller) -> None:
    the_error(caller.post(JOBS, model="starter", training_file="file-no"), 400, "file_not_found")
    assert caller.get(JOBS).get_json()["data"] == []


def test_somebody_elses_file_and_job_are_as_if_there_were_none(
    caller: Caller, stranger: Caller, file_id: str
) -> None:
    made = create(caller, file_id)["id"]
    missing = "ftjob-" + "0" * 24
    for method, path in [
        ("GET", ""),
        ("POST", "/cancel"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("GET", "/events"),
        ("GET", "/checkpoints"),
    ]:
        theirs, nobodys = (stranger.send(method, f"{JOBS}/{one}{path}") for one in (made, missing))
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(made, missing) == nobodys.text
    the_error(stranger.post(JOBS, model="starter", training_file=file_id), 400, "file_not_found")


def test_a_repeated_create_is_one_job(caller: Caller, file_id: str) -> None:
    body = json.dumps({"model": "starter", "training_file": file_id})
    first, again = (
        caller.send("POST", JOBS, data=body, Idempotency_Key="k").get_json()["id"] for _ in range(2)
    )
    assert first == again


def test_an_upload_is_what_a_job_names(caller: Caller) -> None:
    form = {"purpose": "fine-tune", "file": (BytesIO(b'{"text": "a"}\n'), "a.jsonl")}
    sent = caller._client.post("/v1/files", data=form, headers=caller._headers)
    assert sent.status_code == 200, sent.text
    assert create(caller, sent.get_json()["id"])["status"] == "validating_files"


def test_a_job_whose_file_is_gone_fails_at_the_next_round(
    caller: Caller, file_id: str, offered: Database, settings: Settings, desk: Desk
) -> None:
    other = a_file(offered, settings)
    lost, half = create(caller, file_id)["id"], create(caller, file_id, validation_file=other)["id"]
    with offered.transaction() as connection:
        connection.execute(text("DELETE FROM files WHERE id = :id"), {"id": file_id})
    read(desk, other)
    for made in (lost, half):
        ended = caller.get(f"{JOBS}/{made}").get_json()
        assert (ended["status"], ended["error"]["param"]) == ("failed", "training_file")
        assert "is gone" in ended["error"]["message"]


def test_one_file_may_both_train_and_validate(
    caller: Caller, file_id: str, offered: Database, desk: Desk
) -> None:
    made = create(caller, file_id, validation_file=file_id)
    read(desk, file_id)
    assert caller.get(f"{JOBS}/{made['id']}").get_json()["status"] == "queued"


def test_a_filter_that_says_two_things_is_refused(caller: Caller) -> None:
    answer = caller.get(f"{JOBS}?metadata%5Bteam%5D=red&metadata%5Bteam%5D=blue")
    assert the_error(answer, 400, "duplicate_parameter")["param"] == "metadata[team]"


def test_nobody_rings_for_a_job_that_rests(
    caller: Caller, file_id: str, offered: Database, settings: Settings, desk: Desk
) -> None:
    made = create(caller, file_id)
    read(desk, file_id)
    bells = Bells()
    for wish, rung in (("pause", []), ("resume", ["train"])):
        caller.send("POST", f"{JOBS}/{made['id']}/{wish}")
        with offered.transaction() as connection:
            assert sweeper.ring_for_waiting(connection, bells) == rung
