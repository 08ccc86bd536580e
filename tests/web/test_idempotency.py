"""Creates that are sent again make nothing twice, and first ones are never taken for repetitions."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from bench import idempotency as bench
from jobs.database import Database
from jobs.settings import Settings
from jobs.states import State
from tests.conftest import wait_for
from tests.jobs import samples
from tests.web.conftest import Caller, FakeWorker, issue, output, rows, the_error
from tests.web.test_gunicorn import Server
from web import connection, synchronous

BODY = {"model": "starter", "input": "def", "background": True}


def create(
    caller: Caller, count: int | None = None, key: str | None = None, path: str = "/v1/responses", **body: Any
) -> TestResponse:
    """Send a create as the official client does, which counts its retries."""
    headers = {"x_stainless_retry_count": None if count is None else str(count), "Idempotency_Key": key}
    return caller.send(
        "POST", path, data=json.dumps(BODY | body if path.endswith("responses") else body), **headers
    )


def complete(caller: Caller, count: int | None = None, **body: Any) -> TestResponse:
    return create(caller, count, path="/v1/completions", model="starter", prompt="def", **body)


def made(answer: TestResponse) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["id"])


def test_first_requests_are_always_jobs_of_their_own(caller: Caller, offered: Database) -> None:
    assert len({made(create(caller, count)) for count in (0, 0, None, None)}) == rows(offered) == 4


def test_a_retry_is_answered_with_the_job_that_the_first_request_made(
    caller: Caller, offered: Database, worker: FakeWorker
) -> None:
    first = made(create(caller, 0))
    assert made(create(caller, 1)) == first
    worker.one(output("t"))
    assert create(caller, 2).get_json()["status"] == "completed"
    assert rows(offered) == 1


def test_a_retry_of_something_else_is_a_job_of_its_own(app: Flask, caller: Caller, offered: Database) -> None:
    made(create(caller, 0))
    made(create(caller, 1, input="other"))
    made(create(Caller(app, issue(offered, "somebody")), 1))
    assert rows(offered) == 3


def test_a_retry_whose_first_request_never_came_is_accepted(caller: Caller, offered: Database) -> None:
    assert made(create(caller, 1)) == made(create(caller, 2))
    assert rows(offered) == 1


def test_an_idempotency_key_makes_one_job(caller: Caller, offered: Database) -> None:
    assert len({made(create(caller, key="k")) for _ in range(3)}) == 1
    assert made(create(caller, key="l")) != made(create(caller, key="k"))
    assert rows(offered) == 2


def test_an_idempotency_key_with_another_body_is_refused(caller: Caller, offered: Database) -> None:
    made(create(caller, key="k"))
    error = the_error(create(caller, key="k", input="other"), 422, "idempotency_key_reused")
    assert "new key" in error["message"]
    the_error(create(caller, key="x" * 256), 400, "invalid_value")
    assert rows(offered) == 1


@pytest.mark.parametrize("sent", [{"key": "k"}, {"count": 1}])
def test_many_at_once_make_one_job(caller: Caller, offered: Database, sent: dict[str, Any]) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: create(caller, **sent), range(16)))
    assert len({made(answer) for answer in answers}) == rows(offered) == 1


def test_a_job_that_its_owner_deleted_is_made_again(caller: Caller, offered: Database) -> None:
    first = made(create(caller, 0))
    caller.delete(f"/v1/responses/{first}")
    second = made(create(caller, 1))
    assert second != first
    assert made(create(caller, 2)) == second


def test_a_job_that_its_owner_cancelled_is_answered_as_it_is(caller: Caller) -> None:
    first = made(create(caller, 0))
    caller.post(f"/v1/responses/{first}/cancel")
    assert create(caller, 1).get_json()["status"] == "cancelled"


def test_a_retry_of_a_call_waits_for_the_job_of_the_first(
    caller: Caller, offered: Database, worker: FakeWorker
) -> None:
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(complete, caller, 0)
        (job,) = wait_for(worker.claim)
        retry = threads.submit(complete, caller, 1)
        time.sleep(0.1)
        assert worker.claim() == []
        worker.settle(job, output("t"))
        assert made(first.result()) == made(retry.result()) == job.claim.job_id
    assert made(complete(caller, 2)) == job.claim.job_id, "also after its end, though nothing shows it"
    assert rows(offered) == 1


def test_a_call_that_failed_is_tried_anew(caller: Caller, worker: FakeWorker, offered: Database) -> None:
    worker.start(lambda job: ValueError("boom"))
    assert complete(caller, 0).status_code == 500
    assert complete(caller, 1).status_code == 500
    assert rows(offered) == 2


def test_a_call_that_was_given_up_is_never_the_answer(
    app: Flask, caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(complete, caller, 0)
        (job,) = wait_for(worker.claim)
        owner = samples.row(offered, job.claim.job_id).owner_id
        synchronous.give_up(app.extensions["penstock"], job.claim.job_id, owner)
        retry = threads.submit(complete, caller, 1)
        (second,) = wait_for(worker.claim)
        worker.settle(second, output("t"))
        worker.settle(job, output("late"))
        assert made(retry.result()) == second.claim.job_id
        assert first.result().status_code == 503


def test_a_call_that_had_succeeded_when_it_was_given_up_is_its_retrys_answer(
    app: Flask, caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(complete, caller, 0)
        (job,) = wait_for(worker.claim)
        worker.settle(job, output("t"))
        assert made(first.result()) == job.claim.job_id
    owner = samples.row(offered, job.claim.job_id).owner_id
    synchronous.give_up(app.extensions["penstock"], job.claim.job_id, owner)
    assert made(complete(caller, 1)) == job.claim.job_id
    assert rows(offered) == 1


def test_a_first_call_that_is_gone_leaves_the_job_to_its_retry(
    app: Flask, caller: Caller, worker: FakeWorker, offered: Database
) -> None:
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(complete, caller, 0)
        (job,) = wait_for(worker.claim)
        retry = threads.submit(complete, caller, 1)
        wait_for(lambda: _waiters(offered) == 2)
        owner = samples.row(offered, job.claim.job_id).owner_id
        synchronous.give_up(app.extensions["penstock"], job.claim.job_id, owner)
        assert samples.row(offered, job.claim.job_id).cancel_requested_at is None
        worker.settle(job, output("t"))
        assert made(first.result()) == made(retry.result())
    assert samples.states(offered) == {job.claim.job_id: State.SUCCEEDED}


def _waiters(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.execute(text("SELECT max(waiters) FROM creates")).scalar_one())


def test_a_client_that_has_gone_before_its_create_was_accepted_leaves_nothing(
    caller: Caller, offered: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.Connection, "gone", lambda _: True)
    the_error(create(caller, 0), 503, "client_gone")
    assert rows(offered) == 0
    made(create(caller))  # who never sends again has sent it for good
    assert rows(offered) == 1


def test_a_retry_costs_its_key_no_second_job(app: Flask, offered: Database) -> None:
    caller = Caller(app, issue(offered, "ann"))
    with offered.transaction() as connection:
        connection.execute(text("UPDATE api_keys SET queued_jobs = 1, tokens_per_minute = 30"))
    first = made(create(caller, 0, max_output_tokens=10))
    retry = create(caller, 1, max_output_tokens=10)
    assert made(retry) == first
    assert create(caller, 0, max_output_tokens=10).status_code == 429


def test_creates_that_are_cut_and_sent_again_are_one_job_each(
    settings: Settings, offered: Database, key: str, tmp_path: Path
) -> None:
    server = Server(settings.var_dir, tmp_path / "log")
    try:
        wait_for(server.answers)
        outcome = bench.run(offered, int(server.address.rpartition(":")[2]), key, creates=150)
    finally:
        server.stop()
    assert outcome.cuts.total() > 150
    assert (outcome.duplicates, outcome.lost, outcome.disagreed) == (0, 0, 0)
    assert len(outcome.found) == len(outcome.ids) == rows(offered) == 150
