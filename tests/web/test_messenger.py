"""What the messenger keeps to when others hinder it: races, floods, and what cannot be sent."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from sqlalchemy import text

from jobs import outbox
from jobs.database import Database
from jobs.outbox import Delivery
from jobs.settings import Settings
from tests.conftest import wait_for
from tests.web.conftest import Caller, FakeWorker, opened, output, the_error
from tests.web.receiver import Receiver, receiving
from web import delivery, messenger

HOOK = "https://hooks.example/in"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def listen(caller: Caller, url: str = HOOK) -> str:
    """The id of an endpoint that hears of responses which completed."""
    body = {"name": "n", "url": url, "event_types": ["response.completed"]}
    made: str = caller.post("/v1/webhook_endpoints", **body).get_json()["id"]
    return made


def end_one(caller: Caller, worker: FakeWorker) -> None:
    caller.post("/v1/responses", model="starter", input="a", background=True)
    worker.one(output("x"))


def add(database: Database, owner: str, *urls: str) -> None:
    """Let an owner's targets be told something, without any endpoint."""
    row = text("""
        INSERT INTO outbox (id, owner_id, url, type, resource_id, due_at)
        SELECT 'evt_' || gen_random_uuid(), id, :url, 'response.completed', 'resp_1', now()
        FROM owners WHERE name = :owner
    """)
    with database.transaction() as connection:
        connection.execute(row, [{"owner": owner, "url": url} for url in urls])


def told(database: Database) -> list[tuple[bool, bool, str | None]]:
    """(delivered, waits, last error) of each row, by age."""
    query = text("""
        SELECT delivered_at IS NOT NULL, due_at IS NOT NULL, last_error FROM outbox ORDER BY created_at, id
    """)
    with database.transaction() as connection:
        return [tuple(row) for row in connection.execute(query)]


def claim(database: Database, running: list[Delivery], limit: int = 16) -> list[Delivery]:
    with database.transaction() as connection:
        return outbox.claim(connection, running, limit)


def test_an_endpoint_that_is_deleted_meanwhile_hinders_no_end(
    caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    endpoint = listen(caller)
    caller.post("/v1/responses", model="starter", input="a", background=True)
    (job,) = worker.claim()
    waits = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%happened%'")

    def waiting() -> bool:
        with offered.reading() as connection:
            return connection.execute(waits).first() is not None

    with ThreadPoolExecutor() as pool:
        with offered.transaction() as connection:
            connection.execute(text("DELETE FROM webhook_endpoints WHERE id = :id"), {"id": endpoint})
            settled = pool.submit(worker.settle, job, output("x"))
            wait_for(waiting)
        settled.result(timeout=10)
    assert told(offered) == []


def test_who_floods_the_outbox_does_not_hold_up_the_others(
    offered: Database, key: str, foreign_key: str
) -> None:
    add(offered, "somebody", *(f"https://hooks.example/{number}" for number in range(40)))
    add(offered, "somebody else", HOOK)
    first = claim(offered, [])
    assert sorted(each.url == HOOK for each in first) == [False] * 4 + [True]
    assert claim(offered, first) == []  # the flood has its share, until one of these ends
    flood = [each for each in first if each.url != HOOK]
    assert claim(offered, flood[1:]) != []


def test_two_messengers_never_take_the_same(offered: Database, key: str) -> None:
    add(offered, "somebody", HOOK, f"{HOOK}/2")
    with offered.transaction() as connection:
        assert len(outbox.claim(connection, [], 16)) == 2
        assert claim(offered, []) == []  # and waits for nobody


def test_what_cannot_be_sent_at_all_is_tried_by_the_schedule(
    offered: Database, key: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(offered, "somebody", "http://broken.example/", receiver.url)
    send = delivery.send

    def sometimes(each: Delivery, allow_private: bool) -> int:
        if "broken" in each.url:
            raise UnicodeError("that no host has")
        return send(each, allow_private)

    monkeypatch.setattr(delivery, "send", sometimes)
    assert messenger.deliver(offered, allow_private=True) == 1
    assert sorted(told(offered)) == [(False, True, "UnicodeError"), (True, False, None)]


def test_a_late_failure_does_not_repeat_what_another_attempt_delivered(offered: Database, key: str) -> None:
    add(offered, "somebody", HOOK)
    (late,) = claim(offered, [])
    with offered.transaction() as connection:
        connection.execute(text("UPDATE outbox SET due_at = now()"))
    (second,) = claim(offered, [])
    with offered.transaction() as connection:
        outbox.delivered(connection, second)
    with offered.transaction() as connection:
        outbox.failed(connection, late, "no answer")
    assert told(offered) == [(True, False, None)]


def test_what_was_delivered_stays_so_when_its_target_is_gone(
    caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    listen(caller)
    end_one(caller, worker)
    (first,) = claim(offered, [])
    with offered.transaction() as connection:
        outbox.delivered(connection, first)
    end_one(caller, worker)
    (second,) = claim(offered, [])
    with offered.transaction() as connection:
        outbox.gone(connection, second)
    assert told(offered) == [(True, False, None), (False, False, "410 Gone")]


def test_a_connection_that_opens_after_the_deadline_is_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Early(threading.Timer):  # its time is over before there is a socket
        def start(self) -> None:
            self.function()

    monkeypatch.setattr(delivery.threading, "Timer", Early)
    each = Delivery(
        "evt_1", 1, "batch.failed", "batch_1", delivery.datetime.now(delivery.UTC), 1, "t", None,
        receiver.url, ["whsec_" + "a" * 44],
    )  # fmt: skip
    with pytest.raises(delivery.Undelivered, match="no answer within"):
        delivery.send(each, allow_private=True)
    assert receiver.heard == []


def test_samples_do_not_take_every_thread(
    settings: Settings, offered: Database, key: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.manner = "hangs"
    monkeypatch.setattr(delivery, "TIMEOUT", 1.0)
    with opened(settings.model_copy(update={"webhook_allow_private": True})) as app:
        caller = Caller(app, key)
        path = f"/v1/webhook_endpoints/{listen(caller, receiver.url)}/test"
        with ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(Caller(app, key).post, path, event_type="batch.failed") for _ in range(4)]
            wait_for(lambda: len(receiver.heard) == 4)
            refused = caller.post(path, event_type="batch.failed")
            assert the_error(refused, 503, "too_many_trials")
            assert refused.headers["Retry-After"] == "5"
            for one in sent:
                the_error(one.result(), 400, "webhook_undelivered")
        receiver.manner = "well"
        assert caller.post(path, event_type="batch.failed").get_json()["status_code"] == 200


def test_an_owner_cannot_outrun_the_limit_of_endpoints(
    app: Flask, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.webhooks.MAX_ENDPOINTS", 3)
    body = {"name": "n", "url": HOOK, "event_types": ["response.completed"]}
    with ThreadPoolExecutor(12) as pool:
        sent = [pool.submit(Caller(app, key).post, "/v1/webhook_endpoints", **body) for _ in range(24)]
    assert sorted(one.result().status_code for one in sent) == [200] * 3 + [400] * 21
