"""Submit, poll, wait, cancel, delete, list: what an owner sees of a response."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import redis
from flask import Flask
from sqlalchemy import text

from jobs import pruning
from jobs.database import Database
from jobs.errors import InvalidPrompt, NumericalError
from jobs.inputs import Sampling
from jobs.settings import Settings
from jobs.signals import tokens_key
from tests.conftest import wait_for
from tests.web.conftest import Caller, FakeWorker, opened, output, rows
from web import waiting


def submit(caller: Caller, **more: Any) -> dict[str, Any]:
    answer = caller.post("/v1/responses", **{"model": "starter", "input": "def", "background": True, **more})
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def test_a_background_response_is_submitted_polled_and_read(caller: Caller, worker: FakeWorker) -> None:
    first, second = submit(caller), submit(caller)
    assert (first["status"], first["queue_position"], second["queue_position"]) == ("queued", 1, 2)
    (job, _) = worker.claim()
    running = caller.get(f"/v1/responses/{first['id']}")
    assert running.get_json()["status"] == "in_progress"
    assert running.get_json()["queue_position"] is None
    assert int(running.headers["openai-poll-after-ms"]) > 0
    worker.settle(job, output(" name():"))
    done = caller.get(f"/v1/responses/{first['id']}")
    body = done.get_json()
    assert (body["status"], body["attempt"]) == ("completed", 1)
    assert body["output"][0]["content"][0]["text"] == " name():"
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"]) == (3, 2)
    assert body["usage"]["total_tokens"] == 5
    assert body["completed_at"] >= body["created_at"]
    assert "openai-poll-after-ms" not in done.headers


def test_a_text_cut_at_its_limit_is_incomplete(caller: Caller, worker: FakeWorker) -> None:
    made = submit(caller)
    worker.one(output("text", finish="length"))
    body = caller.get(f"/v1/responses/{made['id']}").get_json()
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (NumericalError("The logits were not finite."), "server_error", "numerical_error"),
        (InvalidPrompt("It does not fit."), "invalid_prompt", "invalid_prompt"),
    ],
)
def test_a_failed_response_says_why(
    caller: Caller, worker: FakeWorker, error: Exception, code: str, reason: str
) -> None:
    made = submit(caller)
    worker.one(error)
    body = caller.get(f"/v1/responses/{made['id']}").get_json()
    assert (body["status"], body["output"], body["usage"]) == ("failed", [], None)
    assert body["error"] == {"code": code, "message": str(error), "reason": reason}


def test_the_worker_gets_what_the_caller_asked_for(caller: Caller, worker: FakeWorker) -> None:
    asked = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "seed": 2**63 - 1,
        "max_output_tokens": 9,
        "min_tokens": 2,
        "ignore_eos": True,
        "stop": "end",
    }
    made = submit(caller, **asked)
    (job,) = worker.claim()
    sampling = {**asked, "max_tokens": 9, "stop": ["end"]}
    del sampling["max_output_tokens"]
    assert (job.input["prompts"], job.input["n"]) == (["def"], 1)
    assert job.input["sampling"] == Sampling(**sampling).model_dump(mode="json")
    assert {name: made[name] for name in asked} == {**asked, "stop": ["end"]}


def test_a_seed_that_was_not_given_is_drawn_shown_and_stored(caller: Caller, worker: FakeWorker) -> None:
    seeds = [submit(caller)["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    assert [job.input["sampling"]["seed"] for job in worker.claim()] == seeds


def test_the_limit_has_a_default_that_is_cut_to_the_room(caller: Caller) -> None:
    assert submit(caller)["max_output_tokens"] == 63
    assert submit(caller, max_tokens=5)["max_output_tokens"] == 5


def test_null_means_the_default(caller: Caller) -> None:
    made = submit(caller, temperature=None, seed=None, reasoning=None, conversation=None, stop=None)
    assert made["temperature"] == 1.0


def test_harmless_values_of_what_we_do_not_have_are_taken(caller: Caller) -> None:
    submit(
        caller,
        tools=[],
        tool_choice="none",
        parallel_tool_calls=False,
        service_tier="auto",
        user="me",
        safety_identifier="me",
        prompt_cache_key="mine",
        include=[],
        top_logprobs=0,
        truncation="disabled",
        text={"format": {"type": "text"}},
        stream=False,
        reasoning={},
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        logprobs=None,
        num_beams=1,
        length_penalty=1.0,
        early_stopping=False,
    )
    made = submit(caller)
    assert caller.get(f"/v1/responses/{made['id']}?include[]=&stream=false").status_code == 200


def test_metadata_is_kept(caller: Caller) -> None:
    made = submit(caller, metadata={"team": "α"})
    assert caller.get(f"/v1/responses/{made['id']}").get_json()["metadata"] == {"team": "α"}


def test_a_base_model_continues_the_text_of_one_user_message(caller: Caller, worker: FakeWorker) -> None:
    submit(caller, input=[{"role": "user", "content": [{"type": "input_text", "text": "a b"}]}])
    (job,) = worker.claim()
    assert job.input["prompts"] == ["a b"]


def test_a_chat_template_renders_the_turns(caller: Caller, worker: FakeWorker) -> None:
    turns = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "u"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    ]
    submit(caller, model="org/chat", instructions="i", input=turns)
    (job,) = worker.claim()
    assert job.input["prompts"] == ["<system>i<system>d<user>u<assistant>a<assistant>"]


def test_a_synchronous_call_waits_for_the_end(caller: Caller, worker: FakeWorker) -> None:
    worker.start(lambda job: output(" name"))
    answer = caller.post("/v1/responses", model="starter", input="def")
    assert answer.status_code == 200
    assert answer.get_json()["status"] == "completed"
    assert answer.get_json()["background"] is False
    assert caller.get(f"/v1/responses/{answer.get_json()['id']}").status_code == 200


def test_interactive_work_passes_background_work(
    caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    submit(caller)
    asked = {"model": "starter", "input": "x"}
    thread = threading.Thread(target=caller.post, args=("/v1/responses",), kwargs=asked)
    thread.start()
    wait_for(lambda: rows(offered) == 2)
    found = worker.claim()
    for job in found:
        worker.settle(job, output("t"))
    thread.join()
    assert [job.input["prompts"] for job in found] == [["x"], ["def"]]


def test_a_response_that_is_not_stored_leaves_nothing_to_be_seen(
    caller: Caller, worker: FakeWorker, offered: Database, settings: Settings
) -> None:
    worker.start(lambda job: output("t"))
    answer = caller.post("/v1/responses", model="starter", input="x", store=False)
    assert answer.get_json()["output"][0]["content"][0]["text"] == "t"
    assert caller.get(f"/v1/responses/{answer.get_json()['id']}").status_code == 404
    assert caller.get("/v1/responses").get_json()["data"] == []
    assert rows(offered) == 1  # a retry of this call is answered with it
    with offered.transaction() as connection:
        connection.execute(text("UPDATE jobs SET finished_at = now() - interval '11 minutes'"))
    assert pruning.prune(offered, timedelta(days=30)) == 1


def test_a_long_poll_returns_as_soon_as_the_job_ends(
    settings: Settings, key: str, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 60)  # so it cannot be the look at SQL that sees the end
    with opened(settings) as app:
        caller = Caller(app, key)
        made = submit(caller)
        (job,) = worker.claim()
        timer = threading.Timer(0.3, worker.settle, args=(job, output("t")))
        timer.start()
        start = time.monotonic()
        assert caller.get(f"/v1/responses/{made['id']}?wait=20").get_json()["status"] == "completed"
        assert time.monotonic() - start < 2
        timer.join()


def test_a_long_poll_of_a_job_that_goes_on_returns_in_time(caller: Caller) -> None:
    made = submit(caller)
    start = time.monotonic()
    assert caller.get(f"/v1/responses/{made['id']}?wait=0.2").get_json()["status"] == "queued"
    assert 0.2 <= time.monotonic() - start < 2


def test_a_long_poll_sees_an_end_that_redis_did_not_tell(caller: Caller, worker: FakeWorker) -> None:
    worker.speaks = False
    made = submit(caller)
    (job,) = worker.claim()
    timer = threading.Timer(0.1, worker.settle, args=(job, output("t")))
    timer.start()
    start = time.monotonic()
    assert caller.get(f"/v1/responses/{made['id']}?wait=20").get_json()["status"] == "completed"
    assert time.monotonic() - start < 2
    timer.join()


def test_those_who_wait_leave_connections_for_others(settings: Settings, offered: Database, key: str) -> None:
    with opened(Settings(var_dir=settings.var_dir, web_connections=1)) as app:
        _one_place(app, Caller(app, key), offered)


def _one_place(app: Flask, caller: Caller, offered: Database) -> None:
    made = submit(caller)
    poll = threading.Thread(target=caller.get, args=(f"/v1/responses/{made['id']}?wait=1.5",))
    poll.start()
    wait_for(lambda: app.extensions["penstock"].waiting._watches)
    start = time.monotonic()
    assert caller.get(f"/v1/responses/{made['id']}?wait=20").get_json()["status"] == "queued"
    refused = caller.post("/v1/responses", model="starter", input="x")
    assert time.monotonic() - start < 1
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "too_many_waiting")
    assert refused.headers["Retry-After"]
    assert rows(offered) == 1
    poll.join()


def test_a_call_that_takes_too_long_is_given_up(settings: Settings, offered: Database, key: str) -> None:
    with opened(Settings(var_dir=settings.var_dir, sync_wait_seconds=0.2)) as app:
        caller = Caller(app, key)
        for path, name in (("/v1/responses", "input"), ("/v1/completions", "prompt")):
            answer = caller.post(path, model="starter", **{name: "x"})
            assert (answer.status_code, answer.get_json()["error"]["type"]) == (503, "server_error")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        listed = caller.get("/v1/responses").get_json()["data"]
    assert [body["status"] for body in listed] == ["cancelled"]


def test_a_queued_response_is_cancelled_at_once(caller: Caller) -> None:
    made = submit(caller)
    for _ in range(2):  # the second time it answers what is final
        answer = caller.send("POST", f"/v1/responses/{made['id']}/cancel")
        assert (answer.status_code, answer.get_json()["status"]) == (200, "cancelled")
        assert answer.get_json()["cancel_ms"] == 0.0, "it had no slot"


def test_a_running_response_is_cancelled_and_keeps_its_text(caller: Caller, worker: FakeWorker) -> None:
    made = submit(caller)
    (job,) = worker.claim()
    threading.Timer(0.2, worker.settle, args=(job, output("so far", finish="length"))).start()
    body = caller.send("POST", f"/v1/responses/{made['id']}/cancel").get_json()
    assert body["status"] == "cancelled"
    assert body["output"][0]["content"][0]["text"] == "so far"
    assert body["usage"]["output_tokens"] == 2
    assert 0 < body["cancel_ms"] < body["run_ms"]


def test_a_cancel_does_not_wait_long_for_a_worker_that_is_gone(caller: Caller, worker: FakeWorker) -> None:
    made = submit(caller)
    worker.claim()
    start = time.monotonic()
    body = caller.send("POST", f"/v1/responses/{made['id']}/cancel").get_json()
    assert body["status"] == "in_progress"
    assert time.monotonic() - start < 4


def test_a_finished_response_stays_as_it_is_when_cancelled(caller: Caller, worker: FakeWorker) -> None:
    made = submit(caller)
    worker.one(output("t"))
    body = caller.send("POST", f"/v1/responses/{made['id']}/cancel").get_json()
    assert (body["status"], body["cancel_ms"]) == ("completed", None)


def test_a_synchronous_response_cannot_be_cancelled(caller: Caller, worker: FakeWorker) -> None:
    worker.start(lambda job: output("t"))
    made = caller.post("/v1/responses", model="starter", input="x").get_json()
    answer = caller.send("POST", f"/v1/responses/{made['id']}/cancel")
    assert answer.status_code == 400
    assert "'background': true" in answer.get_json()["error"]["message"]


def test_deleting_a_response_deletes_what_redis_has_of_its_tokens(
    caller: Caller, worker: FakeWorker, settings: Settings
) -> None:
    made = submit(caller)
    worker.one(output("t"))
    with redis.Redis.from_url(settings.redis) as client:
        client.xadd(tokens_key(made["id"]), {"t": "[1]"})
        client.xadd(tokens_key("another"), {"t": "[1]"})
        caller.delete(f"/v1/responses/{made['id']}")
        wait_for(lambda: not client.exists(tokens_key(made["id"])))
        assert client.exists(tokens_key("another"))


@pytest.mark.parametrize("stage", ["queued", "running", "ended"])
def test_a_deleted_response_is_gone_at_once(
    caller: Caller, worker: FakeWorker, offered: Database, stage: str
) -> None:
    made = submit(caller)
    claimed = worker.claim() if stage != "queued" else []
    if stage == "ended":
        worker.settle(claimed[0], output("t"))
    answer = caller.delete(f"/v1/responses/{made['id']}")
    assert answer.get_json() == {"id": made["id"], "object": "response.deleted", "deleted": True}
    for again in (caller.get, caller.delete):
        assert again(f"/v1/responses/{made['id']}").status_code == 404
    assert caller.get("/v1/responses").get_json()["data"] == []
    if stage == "running":
        worker.settle(claimed[0], output("t"))  # the wish to cancel was there before
        assert _state(offered, made["id"]) == "cancelled"
    assert worker.claim() == []


def _state(database: Database, job_id: str) -> str:
    with database.transaction() as connection:
        return connection.execute(text("SELECT state FROM jobs WHERE id = :id"), {"id": job_id}).scalar_one()


def test_the_list_is_paged_from_the_newest(caller: Caller, stranger: Caller) -> None:
    made = [submit(caller)["id"] for _ in range(5)]
    submit(stranger)
    page = caller.get("/v1/responses?limit=2").get_json()
    assert [one["id"] for one in page["data"]] == made[:2:-1]
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", made[4], made[3])
    assert page["has_more"] is True
    rest = caller.get(f"/v1/responses?limit=10&after={page['last_id']}").get_json()
    assert [one["id"] for one in rest["data"]] == made[2::-1]
    assert rest["has_more"] is False
    oldest = caller.get("/v1/responses?order=asc&limit=1").get_json()
    assert oldest["data"][0]["id"] == made[0]


def test_a_long_poll_ends_when_the_process_is_to_stop(
    settings: Settings, offered: Database, key: str
) -> None:
    with opened(settings) as app:
        caller = Caller(app, key)
        made = submit(caller)
        threading.Timer(0.2, app.extensions["penstock"].waiting.release).start()
        start = time.monotonic()
        assert caller.get(f"/v1/responses/{made['id']}?wait=20").get_json()["status"] == "queued"
        assert time.monotonic() - start < 2


def test_an_end_that_was_told_before_the_wait_is_not_missed(
    settings: Settings, key: str, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 60)  # nobody will look again
    with opened(settings) as app:
        made = submit(Caller(app, key))
        worker.one(output("t"))
        start = time.monotonic()
        app.extensions["penstock"].waiting.wait(made["id"], 20)
        assert time.monotonic() - start < 2
