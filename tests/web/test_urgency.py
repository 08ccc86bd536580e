"""What a request says of its place in the queue, and what its object says of it."""

import time
from typing import Any

import pytest
from sqlalchemy import func

from jobs.attempts import Tier
from jobs.database import Database
from jobs.queue_tables import rates
from tests.jobs import samples
from tests.web.conftest import Caller, FakeWorker, output
from tests.web.test_responses import submit


def test_a_job_says_its_priority_and_when_it_must_have_begun(caller: Caller, database: Database) -> None:
    ends = int(time.time()) + 3600
    made = submit(caller, priority=7, deadline=ends)
    assert (made["priority"], made["deadline"]) == (7, ends)
    row = samples.row(database, made["id"])
    assert (row.tier, row.priority, row.deadline.timestamp()) == (Tier.STANDARD, 7, ends)
    assert submit(caller)["deadline"] is None


def test_the_earlier_of_deadline_and_longest_wait_counts(caller: Caller) -> None:
    now = time.time()
    sooner = submit(caller, deadline=int(now) + 3600, max_queue_seconds=60)["deadline"]
    assert sooner == pytest.approx(now + 60, abs=20)
    later = submit(caller, deadline=int(now) + 60, max_queue_seconds=3600)["deadline"]
    assert later == int(now) + 60


def test_a_job_costs_what_it_reads_and_the_most_that_it_may_write(
    caller: Caller, database: Database, worker: FakeWorker
) -> None:
    made = submit(caller, max_output_tokens=40)
    row = samples.row(database, made["id"])
    worker.one(output("x"))
    read = caller.get(f"/v1/responses/{made['id']}").get_json()["usage"]["input_tokens"]
    assert row.tokens == read - 2 + 40  # the fake worker counts 3 for a prompt of one token


def test_an_owners_urgent_job_passes_its_others(caller: Caller) -> None:
    first, urgent = submit(caller), submit(caller, priority=1)
    assert urgent["queue_position"] == 1
    assert caller.get(f"/v1/responses/{first['id']}").get_json()["queue_position"] == 2


def test_a_queued_job_says_when_it_will_have_ended(caller: Caller, database: Database) -> None:
    assert submit(caller)["eta"] is None, "nothing ever ran"
    speeds = {"tokens_per_second": 100.0, "stream_tokens_per_second": 50.0, "late50": 1.0, "late90": 2.0}
    with database.transaction() as connection:
        line = {"queue": "generate", "model": "starter", "updated_at": func.now()}
        connection.execute(rates.insert().values(**line, **speeds))
    now, made = time.time(), submit(caller, max_output_tokens=50)
    assert now < made["eta"]["p50"] < made["eta"]["p90"]
    assert made["eta"]["p90"] - now == pytest.approx(2 * (made["eta"]["p50"] - now), rel=0.2)
    assert caller.get(f"/v1/responses/{made['id']}").get_json()["eta"]["p50"] > now


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"priority": 101}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": "tomorrow"}, "deadline"),
        ({"max_queue_seconds": 0}, "max_queue_seconds"),
        ({"max_queue_seconds": 10**9}, "max_queue_seconds"),
        ({"tier": 0}, "tier"),
        ({"tokens": 1}, "tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(caller: Caller, given: dict[str, Any], param: str) -> None:
    answer = caller.post("/v1/responses", model="starter", input="def", background=True, **given)
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == param
