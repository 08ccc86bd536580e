"""Submit, poll and read text: through Flask, PostgreSQL, Redis, a Celery worker and a shared batch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import redis
from sqlalchemy import text

from jobs.database import Database
from tests.conftest import ROOT, wait_for
from tests.end_to_end.conftest import RunningStack


def test_a_background_job_is_queued_at_once_and_ends_with_text(stack: RunningStack) -> None:
    status, job = stack.call(
        "POST",
        "/v1/responses",
        {"model": "starter", "input": "\ndef ", "background": True, "max_output_tokens": 24},
    )
    assert (status, job["status"], job["output"]) == (200, "queued", [])
    done = stack.end(job["id"])
    assert done["status"] in {"completed", "incomplete"}
    assert done["output"][0]["content"][0]["text"]
    assert 1 <= done["usage"]["output_tokens"] <= 24


def test_a_synchronous_call_waits_for_its_text(stack: RunningStack) -> None:
    body = {"model": "starter", "prompt": "\nimport ", "max_tokens": 12, "ignore_eos": True, "seed": 5}
    status, done = stack.call("POST", "/v1/completions", body)
    assert status == 200
    assert done["choices"][0]["finish_reason"] == "length"
    usage = done["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


def test_the_same_seed_says_the_same_alone_and_in_a_crowd(stack: RunningStack) -> None:
    asked = {"seed": 7, "temperature": 0.9, "top_k": 50, "max_output_tokens": 40}
    alone = stack.end(stack.submit(**asked))
    crowd = [stack.submit(input=f"\nclass A{n}", seed=n, max_output_tokens=60) for n in range(12)]
    again = stack.end(stack.submit(**asked))
    assert again["output"][0]["content"] == alone["output"][0]["content"]
    assert all(stack.end(job)["status"] == "incomplete" for job in crowd)


def test_more_jobs_than_slots_all_end(stack: RunningStack) -> None:
    jobs = [stack.submit(max_output_tokens=8 + n % 24) for n in range(40)]
    assert {stack.end(job)["status"] for job in jobs} == {"incomplete"}


def test_a_running_job_stops_when_its_client_cancels_and_keeps_what_it_has(stack: RunningStack) -> None:
    job = stack.submit(max_output_tokens=480)
    wait_for(lambda: stack.get(job)["status"] == "in_progress", every=0.005)
    stack.call("POST", f"/v1/responses/{job}/cancel")
    done = stack.end(job, seconds=5)
    assert done["status"] == "cancelled"
    assert done["usage"]["output_tokens"] < 480


def test_the_doorbell_rings_through_celery(stack: RunningStack) -> None:
    """The worker polls once a second; ten jobs one after the other are faster only with a bell."""
    began = time.monotonic()
    for _ in range(10):
        stack.end(stack.submit(max_output_tokens=1))
    assert time.monotonic() - began < 5


def test_the_jobs_of_a_killed_worker_finish_elsewhere(stack: RunningStack) -> None:
    jobs = [stack.submit(max_output_tokens=400, seed=n) for n in range(8)]
    wait_for(lambda: stack.get(jobs[-1])["status"] == "in_progress", every=0.005)
    environment = {**stack.environment, "WORKER_NAME": "second"}
    second = subprocess.Popen(
        [sys.executable, "-m", "worker.app"], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: _offered_by(stack, "second"))
        rescued = [stack.submit(max_output_tokens=450, seed=n) for n in range(24)]
        wait_for(lambda: _running_on(stack, "second") > 0, every=0.005)
        os.kill(second.pid, signal.SIGKILL)
        done = [stack.end(job, seconds=90) for job in rescued]
    finally:
        second.kill()
        second.wait()
    assert {job["status"] for job in done} == {"incomplete"}
    assert max(job["attempt"] for job in done) == 2
    assert all(job["usage"]["output_tokens"] == 450 for job in done)


def test_a_killed_worker_comes_back_and_finishes_its_jobs(stack: RunningStack) -> None:
    before = stack.pid("worker")
    jobs = [stack.submit(max_output_tokens=450) for _ in range(4)]
    wait_for(lambda: stack.get(jobs[-1])["status"] == "in_progress", every=0.005)
    os.kill(before, signal.SIGKILL)
    assert {stack.end(job, seconds=90)["status"] for job in jobs} == {"incomplete"}
    assert stack.pid("worker") not in {0, before}


def test_flushall_loses_nothing(stack: RunningStack) -> None:
    jobs = []
    with redis.Redis.from_url(stack.settings.redis) as client:
        for n in range(30):
            jobs.append(stack.submit(max_output_tokens=16))
            if n % 5 == 0:
                client.flushall()
    assert {stack.end(job)["status"] for job in jobs} == {"incomplete"}


def test_with_redis_stopped_submitting_answers_within_a_second_and_the_job_runs(stack: RunningStack) -> None:
    pid = stack.pid("redis")
    os.kill(pid, signal.SIGSTOP)
    try:
        slowest = 0.0
        jobs = []
        for _ in range(20):
            began = time.monotonic()
            jobs.append(stack.submit(max_output_tokens=4))
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        assert {stack.end(job)["status"] for job in jobs} == {"incomplete"}
        wait_for(lambda: stack.call("GET", "/readyz")[1]["status"] == "degraded")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: stack.call("GET", "/readyz")[1]["status"] == "ready", seconds=30)


def test_each_process_that_dies_is_restarted_while_the_others_go_on(stack: RunningStack) -> None:
    names = ("postgres", "redis", "web", "worker", "trainer", "clerk", "sweeper")
    for name in names:
        before = {other: stack.pid(other) for other in names}
        os.kill(before[name], signal.SIGKILL)
        wait_for(lambda name=name, old=before[name]: stack.pid(name) not in {0, old}, seconds=30)  # type: ignore[misc]
        after = {other: stack.pid(other) for other in names}
        assert {other for other in names if after[other] != before[other]} == {name}
    wait_for(lambda: _serves(stack.pid("web")), seconds=60)
    wait_for(lambda: _ready(stack), seconds=60)
    assert stack.end(stack.submit(max_output_tokens=4))["status"] == "incomplete"


def _serves(master: int) -> bool:
    """Whether this gunicorn has the port: the last worker of a killed one may keep it for a moment."""
    children = Path(f"/proc/{master}/task/{master}/children")
    return bool(master and children.exists() and children.read_text().strip())


def _ready(stack: RunningStack) -> bool:
    try:
        return bool(stack.call("GET", "/readyz")[0] == 200)
    except OSError:
        return False


def _sql(stack: RunningStack, query: str, **values: str) -> int:
    database = Database(stack.settings.database, connections=1)
    with database.transaction() as connection:
        found = connection.execute(text(query), values).scalar_one()
    database.close()
    return int(found)


def _offered_by(stack: RunningStack, worker: str) -> int:
    return _sql(stack, "SELECT count(*) FROM offers WHERE worker = :worker", worker=worker)


def _running_on(stack: RunningStack, worker: str) -> int:
    query = "SELECT count(*) FROM jobs WHERE state = 'running' AND worker = :worker"
    return _sql(stack, query, worker=worker)
