"""What is left of Penstock without Redis, or with one that forgets, hangs or lies. No job needs it."""

import base64
import json
import signal
import time
from collections.abc import Callable

import pytest

from jobs.queue import DOORBELLS, QueueName
from tests.conftest import wait_for
from tests.faults.house import House
from tests.faults.ledger import Ledger
from tests.faults.proxy import Fault, Way

BELLS = f"penstock:{QueueName.GENERATE}"


def down(house: House) -> None:
    """Row 1."""
    house.kill_server("redis")


def stopped(house: House) -> None:
    """Row 2."""
    house.signal_server("redis", signal.SIGSTOP)


def full(house: House) -> None:
    """Row 6."""
    with house.redis() as client:
        client.config_set("maxmemory", 1)
    house.processes[
        "worker"
    ].redis.cut()  # so that it has to declare its queue again, for which there is no room


@pytest.mark.parametrize("happens", [down, stopped, full])
def test_without_redis_creates_answer_within_a_second_and_every_job_runs_soon(
    house: House, ledger: Ledger, happens: Callable[[House], None]
) -> None:
    ledger.submit(4)
    happens(house)
    ledger.submit(100, clients=4)
    assert ledger.p99() < 1
    ledger.all_end()
    waits = []
    for _ in range(3):  # found by looking: nobody could ring
        ledger.submit(1)
        waits += [(row.started_at - row.created_at).total_seconds() for row in ledger.all_end()[-1:]]
    assert min(waits) <= 2
    assert house.processes["worker"].lives


def test_a_redis_that_is_emptied_again_and_again_loses_none_of_1000_jobs(
    house: House, ledger: Ledger
) -> None:
    """Row 3."""
    with house.redis() as client:
        for _ in range(10):
            ledger.submit(100, tokens=2, clients=8)
            client.flushall()
    assert len(ledger.accepted) == 1000
    assert all(row.attempt == 1 for row in ledger.all_end())


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_redis_that_is_killed_and_started_empty_finds_the_worker_back_within_10_seconds(
    house: House, ledger: Ledger, times: int
) -> None:
    """Row 4."""
    for _ in range(times):
        ledger.submit(5)
        house.kill_server("redis")
        ledger.submit(5)
        house.start_server("redis")
        began = time.monotonic()
        ledger.submit(5)
        hears_bells(house)
        assert time.monotonic() - began < 10
    ledger.all_end()


def hears_bells(house: House, bells: int = 1) -> None:
    """Return once the worker takes doorbells out of its list."""
    house.ring(QueueName.GENERATE, bells)
    wait_for(lambda: house.bells(QueueName.GENERATE) == 0, 60)


@pytest.mark.slow  # 20 s: kombu looks at a silent connection that seldom
def test_a_worker_whose_connection_hangs_half_open_is_back_within_30_seconds(
    house: House, ledger: Ledger
) -> None:
    """Row 5."""
    worker = house.processes["worker"]
    hears_bells(house)
    worker.redis.half_open()
    began = time.monotonic()
    ledger.submit(20)
    ledger.all_end()
    hears_bells(house, 3)  # what the dead connection had asked for takes one at most
    assert time.monotonic() - began < 30
    assert worker.lives


@pytest.mark.parametrize("asked", [b"BRPOP", b"ZREM"])
def test_a_bell_whose_delivery_breaks_off_deafens_nobody(house: House, ledger: Ledger, asked: bytes) -> None:
    """Row 4: Redis dies while it hands a bell over, or while that is acknowledged, if it were."""
    worker = house.processes["worker"]
    hears_bells(house)
    worker.redis.fault(Way.DOWN, Fault(cut_after=20, once_sent=asked, times=1))
    house.ring(QueueName.GENERATE)
    ledger.submit(4)
    ledger.all_end()
    worker.redis.heal()
    worker.redis.cut()  # all of its connections, as a Redis that dies does
    hears_bells(house, 3)  # what the dead connection had asked for takes one at most


def test_what_is_no_message_is_passed_over(house: House, ledger: Ledger) -> None:
    """Row 7."""
    worker = house.processes["worker"]
    with house.redis() as client:
        for message in HARMLESS.values():
            client.lpush(BELLS, message)
        wait_for(lambda: client.llen(BELLS) == 0)
    ledger.submit(8)
    ledger.all_end()
    hears_bells(house)
    assert worker.lives


@pytest.mark.parametrize(
    "kind",
    [
        "not UTF-8",
        pytest.param("not JSON", marks=pytest.mark.slow),
        pytest.param("headers a number", marks=pytest.mark.slow),
        pytest.param("body not base64", marks=pytest.mark.slow),
    ],
)
def test_a_message_that_ends_the_worker_ends_it_once_and_its_jobs_are_not_charged(
    house: House, ledger: Ledger, kind: str
) -> None:
    """Row 7: the broker's library dies of it; it is gone from the list then, so nobody dies of it again."""
    ledger.submit(4, tokens=300)
    wait_for(lambda: "running" in ledger.states(), every=0.005)
    with house.redis() as client:
        client.lpush(BELLS, LETHAL[kind])
    house.processes["worker"].died()
    again = house.start("worker")
    assert {(row.failures, row.crashes) for row in ledger.all_end()} == {(0, 0)}
    hears_bells(house)
    assert again.lives


def _envelope(**changes: object) -> dict[str, object]:
    body = base64.b64encode(json.dumps([[], {}, {}]).encode()).decode()
    task = {
        "task": DOORBELLS[QueueName.GENERATE],
        "id": "1",
        "lang": "py",
        "argsrepr": "()",
        "kwargsrepr": "{}",
    }
    properties = {
        "correlation_id": "1",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "generate"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "t",
    }
    whole = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": task,
        "properties": properties,
    }
    return whole | changes


HARMLESS = {
    "no properties": json.dumps({k: v for k, v in _envelope().items() if k != "properties"}).encode(),
    "no headers": json.dumps({k: v for k, v in _envelope().items() if k != "headers"}).encode(),
    "pickle": json.dumps(_envelope(**{"content-type": "application/x-python-serialize"})).encode(),
    "unknown task": json.dumps(_envelope(headers={"task": "no.such", "id": "1", "lang": "py"})).encode(),
    "task a number": json.dumps(_envelope(headers={"task": 3, "id": "1", "lang": "py"})).encode(),
    "unknown coding": json.dumps(_envelope(**{"content-encoding": "rot13"})).encode(),
}
LETHAL = {
    "not JSON": b"garbage",
    "body not base64": json.dumps(_envelope(body="%%%")).encode(),
    "not UTF-8": b"\xff\xfe\x00",
    "headers a number": json.dumps(_envelope(headers=5)).encode(),
}


def test_a_thousand_doorbells_for_the_same_work_run_nothing_twice(house: House, ledger: Ledger) -> None:
    """Row 8."""
    ledger.submit(10, tokens=100)
    house.ring(QueueName.GENERATE, 1000)
    ledger.submit(10, tokens=20)
    with house.redis() as client:
        wait_for(lambda: client.llen(BELLS) == 0, 60)
    rows = ledger.all_end()
    assert {(row.attempt, row.crashes) for row in rows} == {(1, 0)}
