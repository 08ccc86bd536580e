"""What clients see while web and clerk die, restart, lose replies and run out of disk: one job a request."""

import contextlib
import json
import random
import secrets
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from openai import APIConnectionError, InternalServerError, OpenAI
from sqlalchemy import text

from jobs.queue import Chore, QueueName
from tests.conftest import wait_for
from tests.faults.house import COMMANDS, House
from tests.faults.ledger import PROMPTS, Ledger, asked
from tests.faults.proxy import Fault, Proxy, Way


@pytest.fixture
def client(house: House) -> Iterator[OpenAI]:
    """The official client, straight at web."""
    with OpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key=house.key or "", max_retries=0) as made:
        yield made


@pytest.fixture
def door(house: House) -> Iterator[Proxy]:
    """A proxy before web."""
    with Proxy(("127.0.0.1", house.port)) as made:
        yield made


def artifacts(house: House) -> list[Path]:
    """Every file in the store, what is being written too."""
    return [path for path in (house.folder / "artifacts").rglob("*") if path.is_file()]


def batch_of(client: OpenAI, lines: int) -> Any:
    """A batch of so many greedy lines."""
    made = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/completions", "body": _completion(n)}
        for n in range(lines)
    ]
    content = "\n".join(json.dumps(line) for line in made).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")


def _completion(number: int) -> dict[str, Any]:
    fixed = {"model": "starter", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    return {**fixed, "prompt": PROMPTS[number % len(PROMPTS)]}


def completed(client: OpenAI, batch_id: str) -> Any:
    """The batch once it is completed."""
    return wait_for(
        lambda: one if (one := client.batches.retrieve(batch_id)).status == "completed" else None, 90, 0.1
    )


def test_a_clerk_that_dies_between_artifact_and_row_writes_the_same_file_again(
    house: House, client: OpenAI, tmp_path: Path
) -> None:
    """Row 16."""
    before = set(artifacts(house))
    batch = batch_of(client, 6)
    doomed = house.restart("clerk", FAILPOINTS="after_artifact=kill")
    assert doomed.died(60) == -signal.SIGKILL
    written = set(artifacts(house)) - before
    house.start("clerk")
    done = completed(client, batch.id)
    assert done.request_counts.completed == 6
    output = client.files.content(done.output_file_id).text.splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in output) == [f"line-{n}" for n in range(6)]
    assert {path for path in artifacts(house) if "aside" not in path.parts} - before <= written


def test_an_upload_whose_web_dies_between_artifact_and_row_leaves_nothing(
    house: House, client: OpenAI, tmp_path: Path
) -> None:
    """Row 16: the orphan is swept when no row has named it for an hour."""
    before = set(artifacts(house))
    house.restart("web", FAILPOINTS="after_artifact=kill", FAILPOINTS_ONCE=str(tmp_path))
    with pytest.raises(APIConnectionError):
        client.files.create(file=("a.txt", secrets.token_bytes(1000)), purpose="user_data")
    [orphan] = set(artifacts(house)) - before
    with house.database.transaction() as connection:  # as the passing of time does
        connection.execute(text("UPDATE loose_artifacts SET since = since - CAST('2 hours' AS interval)"))
    house.ring(Chore.PRUNE)
    wait_for(lambda: not orphan.exists())
    assert client.files.list().data == []


def test_a_web_that_dies_before_it_rings_has_accepted_the_job_and_its_retry_finds_it(
    house: House, ledger: Ledger, tmp_path: Path
) -> None:
    """Row 17."""
    house.restart("web", FAILPOINTS="before_bell=kill", FAILPOINTS_ONCE=str(tmp_path))
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    with pytest.raises((OSError, HTTPException)):
        ledger.create(PROMPTS[0], 8, headers)
    assert ledger.jobs() == 1
    house.wait_until_it_serves()
    assert ledger.create(PROMPTS[0], 8, headers).status == 200
    assert ledger.jobs() == 1
    ledger.all_end()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_web_that_restarts_under_load_refuses_connections_and_makes_no_job_twice(
    house: House, ledger: Ledger, how: signal.Signals
) -> None:
    """Row 23."""
    web, statuses = house.processes["web"], set[int]()

    def insist(number: int) -> None:
        headers = {"Idempotency-Key": f"{how}-{number}-{secrets.token_hex(8)}"}

        def taken() -> bool:
            with contextlib.suppress(OSError, HTTPException):
                statuses.add(ledger.create(PROMPTS[number % len(PROMPTS)], 2, headers).status)
                return True
            return False

        wait_for(taken, 60, every=0.05)

    with ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(insist, number) for number in range(200)]
        wait_for(lambda: len(ledger.accepted) >= 50, every=0.001)
        web.popen.send_signal(how)
        if how == signal.SIGTERM:
            assert web.died() == 0
            house.start("web")
        for each in taken:
            each.result()
    assert statuses == {200}
    assert ledger.jobs() == len(ledger.accepted) == 200
    ledger.all_end()


def test_a_create_whose_reply_was_cut_is_the_same_job_when_the_client_asks_again(
    house: House, ledger: Ledger, door: Proxy
) -> None:
    """Row 24: the official client asks again by itself."""
    door.fault(Way.DOWN, Fault(cut_after=40, once_sent=b"POST", times=1))
    url = f"http://127.0.0.1:{door.port}/v1"
    with OpenAI(base_url=url, api_key=house.key or "", max_retries=2) as client:
        body = asked(PROMPTS[0], 4)
        extra = {"ignore_eos": True, "seed": 1}
        made = client.responses.create(
            model="starter",
            input=body["input"],
            background=True,
            temperature=0,
            max_output_tokens=16,
            extra_body=extra,
        )
    assert door.hit == 1
    assert door.connections == 2
    assert [row.id for row in ledger.rows([made.id])] == [made.id]
    assert ledger.jobs() == 1


@pytest.mark.parametrize("races", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_cancel_that_races_with_every_step_of_a_job_leaves_one_end(
    house: House, ledger: Ledger, races: int
) -> None:
    """Row 25."""

    def race(number: int) -> None:
        answer = ledger.create(PROMPTS[number % len(PROMPTS)], 1 + number % 30)
        threading.Event().wait(random.Random(number).choice((0, 0.01, 0.03, 0.1)))
        cancelled = house.call("POST", f"/v1/responses/{answer.body['id']}/cancel")
        assert cancelled.status in (200, 409), cancelled.body

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(race, range(races)))
    final = ("succeeded", "cancelled")
    wait_for(lambda: set(ledger.states()) <= set(final), 60, every=0.05)
    assert {row.state for row in ledger.judge(final)} == set(final)


def test_a_cancelled_job_that_runs_is_over_within_a_quarter_of_a_second_and_a_step(
    house: House, ledger: Ledger
) -> None:
    """Row 25."""
    took = []
    for number in range(9):
        job = ledger.create(PROMPTS[number % len(PROMPTS)], 400).body["id"]
        wait_for(lambda job=job: ledger.row(job).state == "running", every=0.002)  # type: ignore[misc]
        house.call("POST", f"/v1/responses/{job}/cancel")
        wait_for(lambda job=job: ledger.row(job).state == "cancelled", every=0.01)  # type: ignore[misc]
        took.append(house.call("GET", f"/v1/responses/{job}").body["cancel_ms"])
    assert sorted(took)[len(took) // 2] < 250 + 50, took  # the median: others use this machine, too


def limited(name: str, size: int) -> list[str]:
    """A process none of whose files may grow beyond so many bytes: to it the disk is full."""
    return ["prlimit", f"--fsize={size}", *COMMANDS[name]]


def test_an_upload_to_a_full_disk_is_refused_and_leaves_no_torn_file(
    house: House, client: OpenAI, ledger: Ledger
) -> None:
    """Row 26."""
    before = set(artifacts(house))
    house.processes["web"].kill()
    house.start("web", limited("web", 1_000_000))
    with pytest.raises(InternalServerError, match="Nothing was accepted") as refused:
        client.files.create(file=("a.txt", b"a" * 2_000_000), purpose="user_data")
    assert (refused.value.status_code, refused.value.code) == (503, "storage_failed")
    assert set(artifacts(house)) == before
    kept = client.files.create(file=("a.txt", b"b" * 1000), purpose="user_data")
    assert client.files.content(kept.id).content == b"b" * 1000
    ledger.submit(4)
    ledger.all_end()


def test_a_batch_whose_output_finds_no_room_is_completed_when_there_is_some(
    house: House, client: OpenAI
) -> None:
    """Row 26."""
    before = set(artifacts(house))
    house.processes["clerk"].kill()
    clerk = house.start("clerk", limited("clerk", 100))
    batch = batch_of(client, 3)
    known = set(artifacts(house))
    wait_for(lambda: client.batches.retrieve(batch.id).status == "finalizing", 60)
    for _ in range(3):
        house.ring(Chore.BATCHES)
        wait_for(lambda: house.bells(QueueName.CLERK) == 0)
    assert client.batches.retrieve(batch.id).status == "finalizing"
    assert {path for path in artifacts(house) if "aside" not in path.parts} <= known
    clerk.kill()
    house.start("clerk")
    assert completed(client, batch.id).request_counts.completed == 3
    whole = {
        path for path in artifacts(house) if "aside" not in path.parts
    }  # those that died left some there
    assert len(whole - before) == 2  # what was read, and what was written


def test_a_full_disk_under_the_logs_stops_nobody(house: House, ledger: Ledger) -> None:
    """Row 26."""
    for name in ("web", "worker", "sweeper"):
        house.processes[name].kill()
        house.start(name, ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh", *COMMANDS[name]])
    ledger.submit(8)
    ledger.all_end()
    assert house.call("POST", "/v1/responses", {"model": "starter", "input": 5}).status == 400
