"""Webhook endpoints, and that each end is told to whoever wants to hear of it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from jobs import outbox
from jobs.database import Database
from jobs.errors import InvalidPrompt
from jobs.outbox import SCHEDULE
from jobs.settings import Settings
from jobs.webhooks import EVENT_TYPES
from tests.web.conftest import Caller, FakeWorker, opened, output, the_error
from tests.web.receiver import Receiver, receiving
from web import messenger

URL = "https://hooks.example/in"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def private(settings: Settings, offered: Database) -> Iterator[Flask]:
    """An application whose webhooks may go to this machine."""
    with opened(settings.model_copy(update={"webhook_allow_private": True})) as app:
        yield app


@pytest.fixture
def local(private: Flask, key: str) -> Caller:
    return Caller(private, key)


def endpoint(caller: Caller, url: str = URL, **changes: Any) -> dict[str, Any]:
    body = {"name": "n", "url": url, "event_types": list(EVENT_TYPES)} | changes
    answer = caller.post("/v1/webhook_endpoints", **body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.get_json()
    return made


def due(database: Database) -> list[tuple[str, str]]:
    """(type, resource) of what is to be told."""
    with database.transaction() as connection:
        rows = connection.execute(
            text("SELECT type, resource_id FROM outbox WHERE due_at IS NOT NULL ORDER BY id")
        )
        return [(row.type, row.resource_id) for row in rows]


def make_due(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE outbox SET due_at = now() WHERE due_at IS NOT NULL"))


def test_an_endpoint_from_its_making_to_its_end(caller: Caller) -> None:
    made = endpoint(caller)
    secret = made.pop("signing_secret")
    assert secret.startswith("whsec_")
    assert caller.get(f"/v1/webhook_endpoints/{made['id']}").get_json() == made
    changed = caller.post(f"/v1/webhook_endpoints/{made['id']}", name="other").get_json()
    assert (changed["name"], changed["url"]) == ("other", URL)
    rotated = caller.send("POST", f"/v1/webhook_endpoints/{made['id']}/rotate_secret").get_json()
    assert rotated["signing_secret"] != secret
    gone = caller.delete(f"/v1/webhook_endpoints/{made['id']}").get_json()
    assert gone == {"id": made["id"], "object": "webhook_endpoint.deleted", "deleted": True}
    the_error(caller.get(f"/v1/webhook_endpoints/{made['id']}"), 404, None)


def test_endpoints_come_page_by_page(caller: Caller) -> None:
    made = [endpoint(caller)["id"] for _ in range(3)]
    first = caller.get("/v1/webhook_endpoints?limit=2").get_json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([made[2], made[1]], True)
    second = caller.get(f"/v1/webhook_endpoints?after={first['last_id']}").get_json()
    assert ([one["id"] for one in second["data"]], second["has_more"]) == ([made[0]], False)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "POST rotate_secret", "POST test"])
def test_somebody_elses_endpoint_is_as_if_there_were_none(
    caller: Caller, stranger: Caller, method: str
) -> None:
    made = endpoint(caller)["id"]
    verb, _, action = method.partition(" ")
    body = '{"event_type": "response.completed"}' if action == "test" else "{}"
    answers = [
        stranger.send(verb, f"/v1/webhook_endpoints/{one}" + (f"/{action}" if action else ""), data=body)
        for one in (made, "we_missing")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].text.replace(made, "we_missing") == answers[1].text


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"url": "http://hooks.example/"}, "url", "invalid_url"),
        ({"url": "https://10.0.0.1/"}, "url", "invalid_url"),
        ({"event_types": []}, "event_types", "empty_array"),
        ({"event_types": ["video.completed"]}, "event_types", "invalid_value"),
        ({"name": ""}, "name", "empty_string"),
        ({"owner_id": 1}, "owner_id", "unknown_parameter"),
    ],
)
def test_what_is_wrong_with_an_endpoint(
    caller: Caller, changes: dict[str, Any], param: str, code: str
) -> None:
    body = {"name": "n", "url": URL, "event_types": ["batch.failed"]} | changes
    assert the_error(caller.post("/v1/webhook_endpoints", **body), 400, code)["param"] == param


def test_every_end_of_a_background_response_is_told(
    caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    endpoint(caller)
    endpoint(caller, event_types=["batch.completed"])  # does not want to hear of responses
    told = {}
    for end, outcome in (
        ("response.completed", output("x")),
        ("response.incomplete", output("x", finish="length")),
        ("response.failed", InvalidPrompt("no")),
    ):
        made = caller.post("/v1/responses", model="starter", input="a", background=True).get_json()
        worker.one(outcome)
        told[made["id"]] = end
    made = caller.post("/v1/responses", model="starter", input="a", background=True).get_json()
    caller.post(f"/v1/responses/{made['id']}/cancel")
    told[made["id"]] = "response.cancelled"
    assert {resource: kind for kind, resource in due(offered)} == told


def test_a_result_that_came_too_late_is_told_to_nobody(
    caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    endpoint(caller)
    made = caller.post("/v1/responses", model="starter", input="a", background=True).get_json()
    (job,) = worker.claim()
    caller.post(f"/v1/responses/{made['id']}/cancel")
    worker.settle(job, output("x"))
    worker.settle(job, output("x"))
    assert due(offered) == [("response.cancelled", made["id"])]


def test_a_target_that_fails_is_tried_again_by_the_schedule_and_then_never(
    local: Caller, worker: FakeWorker, offered: Database, receiver: Receiver
) -> None:
    endpoint(local, receiver.url)
    local.post("/v1/responses", model="starter", input="a", background=True)
    worker.one(output("x"))
    receiver.statuses = [500] * len(SCHEDULE)
    for attempt in range(1, len(SCHEDULE) + 1):
        make_due(offered)
        assert messenger.deliver(offered, allow_private=True) == 0
        with offered.transaction() as connection:
            wait = connection.execute(text("SELECT due_at - now() FROM outbox")).scalar_one()
        if attempt < len(SCHEDULE):
            assert SCHEDULE[attempt] - timedelta(seconds=5) < wait < SCHEDULE[attempt] * 1.11, attempt
        else:
            assert wait is None
    ids = {headers["webhook-id"] for _, headers, _ in receiver.heard}
    assert (len(receiver.heard), len(ids)) == (len(SCHEDULE), 1)


def test_a_target_that_is_gone_for_good_is_left_alone(
    local: Caller, worker: FakeWorker, offered: Database, receiver: Receiver
) -> None:
    made = endpoint(local, receiver.url)
    for _ in range(3):
        local.post("/v1/responses", model="starter", input="a", background=True)
        worker.one(output("x"))
    receiver.statuses = [410]
    messenger.deliver(offered, allow_private=True)
    assert len(receiver.heard) == 1
    assert local.get(f"/v1/webhook_endpoints/{made['id']}").get_json()["disabled_at"] is not None
    assert due(offered) == []
    local.post("/v1/responses", model="starter", input="a", background=True)
    worker.one(output("x"))
    assert due(offered) == []
    again = local.post(f"/v1/webhook_endpoints/{made['id']}", url=receiver.url).get_json()
    assert again["disabled_at"] is None


def test_a_hanging_target_holds_up_only_itself(
    local: Caller, worker: FakeWorker, offered: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.delivery.TIMEOUT", 1.0)
    with receiving() as slow:
        slow.manner = "hangs"
        endpoint(local, slow.url)
        endpoint(local, receiver.url)
        for _ in range(5):
            local.post("/v1/responses", model="starter", input="a", background=True)
            worker.one(output("x"))
        assert messenger.deliver(offered, allow_private=True) == 5
        assert len(slow.heard) == 5  # one after the other


def test_a_clerk_that_died_while_sending_sends_again(
    offered: Database, caller: Caller, worker: FakeWorker
) -> None:
    endpoint(caller)
    caller.post("/v1/responses", model="starter", input="a", background=True)
    worker.one(output("x"))
    with offered.transaction() as connection:
        (taken,) = outbox.claim(connection, [], 10)
        assert outbox.claim(connection, [], 10) == []
    with offered.transaction() as connection:
        connection.execute(text("UPDATE outbox SET due_at = due_at - interval '61 seconds'"))
        assert outbox.any_due(connection)
        (again,) = outbox.claim(connection, [], 10)
    assert (again.id, again.attempt) == (taken.id, 2)


def test_a_sample_is_sent_at_once_and_its_answer_shown(local: Caller, receiver: Receiver) -> None:
    made = endpoint(local, receiver.url)
    receiver.statuses = [503]
    answer = local.post(f"/v1/webhook_endpoints/{made['id']}/test", event_type="batch.completed").get_json()
    assert answer == {
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": made["id"],
        "event_type": "batch.completed",
        "status_code": 503,
        "success": True,
    }
    unreachable = endpoint(local, "http://127.0.0.1:1/")
    answer = local.post(f"/v1/webhook_endpoints/{unreachable['id']}/test", event_type="batch.completed")
    the_error(answer, 400, "webhook_undelivered")
