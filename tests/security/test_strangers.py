"""Other ways to what is somebody else's than its URL: how it is read, batches, repeated creates."""

import json
import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from jobs.database import Database
from jobs.settings import Settings
from jobs.tables import jobs
from tests.web.batching import COMPLETIONS, Desktop, line
from tests.web.conftest import Caller, FakeWorker
from tests.web.test_foreign import absent, told
from tests.web.things import known
from web.batch_chore import work
from web.desk import Desk

QUERIES = [
    "stream=true",
    "stream=true&starting_after=0",
    "wait=1",
    "limit=1",
    "order=asc",
    "include[]=message.output_text.logprobs",
]
HEADERS: list[dict[str, str]] = [
    {"Range": "bytes=0-1"},
    {"If_None_Match": "*"},
    {"Accept": "text/event-stream"},
    {"X_Original_URL": "/v1/models", "X_Rewrite_URL": "/v1/models"},
    {"X_HTTP_Method_Override": "DELETE"},
    {"X_Forwarded_User": "somebody else", "X_Owner_Id": "1", "OpenAI_Organization": "somebody else"},
]


def test_no_way_of_reading_shows_what_is_somebody_else_s(
    app: Flask, caller: Caller, stranger: Caller, foreign: dict[str, str]
) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/v1") and rule.arguments]
    readable = [rule for rule in rules if "GET" in (rule.methods or ())]
    assert len(readable) >= 12
    for rule in readable:
        for query, headers in [*((one, {}) for one in QUERIES), *(("", one) for one in HEADERS)]:
            answers = []
            for name in (foreign, {kind: absent(one) for kind, one in foreign.items()}):
                path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found, name=name: name[found[1]], rule.rule)
                path += f"?{query}" if query else ""
                answers.append(told(caller.send("GET", path, **headers), *name.values()))
            assert answers[0] == answers[1], (rule.rule, query, headers)
            assert answers[0][0] in (400, 404), (rule.rule, query, headers)
    assert stranger.get(f"/v1/responses/{foreign['response_id']}").status_code == 200


@pytest.mark.parametrize("sub", ["events", "checkpoints"])
def test_a_list_of_one_s_own_does_not_go_on_after_somebody_else_s(
    caller: Caller, stranger: Caller, sub: str
) -> None:
    mine, theirs = known(caller), known(stranger)
    found = stranger.get(f"/v1/fine_tuning/jobs/{theirs['job_id']}/events").get_json()["data"]
    name = found[0]["id"] if sub == "events" and found else theirs["job_id"]
    answers = [
        caller.get(f"/v1/fine_tuning/jobs/{mine['job_id']}/{sub}?after={one}") for one in (name, absent(name))
    ]
    assert told(answers[0], name) == told(answers[1], absent(name))


def test_lines_of_a_batch_reach_nothing_of_somebody_else_s_and_assign_nothing(
    offered: Database,
    settings: Settings,
    caller: Caller,
    key: str,
    desk: Desk,
    worker: FakeWorker,
    foreign: dict[str, str],
) -> None:
    mine = Desktop(offered, settings, caller, key)
    asked = {
        "theirs": {"model": foreign["model"]},
        "nobody's": {"model": absent(foreign["model"])},
        "owner_id": {"owner_id": 1},
        "state": {"state": "succeeded"},
        "lease_until": {"lease_until": "2099-01-01"},
    }
    batch = mine.create(mine.file(line(name, **body) for name, body in asked.items()))
    work(desk)
    assert [job for job in worker.claim() if job.batch_id is not None] == []
    work(desk)
    refused = mine.read(mine.get(batch["id"])["error_file_id"])
    said = {one["custom_id"]: one["response"]["body"]["error"] for one in refused}
    assert said.keys() == asked.keys()
    theirs = json.dumps(said.pop("theirs")).replace(foreign["model"], "X")
    assert theirs == json.dumps(said.pop("nobody's")).replace(absent(foreign["model"]), "X")
    for field, error in said.items():
        assert (error["param"], error["code"]) == (field, "unknown_parameter")


def test_a_chain_in_a_batch_does_not_begin_with_somebody_else_s_response(
    offered: Database, settings: Settings, caller: Caller, key: str, desk: Desk, foreign: dict[str, str]
) -> None:
    mine = Desktop(offered, settings, caller, key)
    url = "/v1/responses"
    lines = [
        line(name, url, model="org/chat", previous_response_id=one)
        for name, one in (("theirs", foreign["response_id"]), ("nobody's", absent(foreign["response_id"])))
    ]
    batch = mine.create(mine.file(lines), url)
    work(desk)
    work(desk)
    said = {
        one["custom_id"]: one["response"]["body"]["error"]
        for one in mine.read(mine.get(batch["id"])["error_file_id"])
    }
    assert said.keys() == {"theirs", "nobody's"}
    assert said["theirs"]["code"] == said["nobody's"]["code"]
    assert COMPLETIONS not in said["theirs"]["message"]


@pytest.mark.parametrize("header", [{"Idempotency_Key": "the-same"}, {"X_Stainless_Retry_Count": "1"}])
def test_a_repeated_create_is_never_answered_with_somebody_else_s(
    caller: Caller, stranger: Caller, offered: Database, header: dict[str, str]
) -> None:
    body = json.dumps({"model": "starter", "input": "d", "background": True})
    made: list[dict[str, Any]] = []
    for one in (stranger, caller):
        one.send("POST", "/v1/responses", data=body)
        answer = one.send("POST", "/v1/responses", data=body, **header)
        assert answer.status_code == 200, answer.text
        made.append(answer.get_json())
        assert one.get(f"/v1/responses/{made[-1]['id']}").status_code == 200
    assert made[0]["id"] != made[1]["id"]
    with offered.transaction() as connection:
        owners = {row.id: row.owner_id for row in connection.execute(select(jobs.c.id, jobs.c.owner_id))}
    assert owners[made[0]["id"]] != owners[made[1]["id"]]
