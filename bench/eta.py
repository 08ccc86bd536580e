"""`make bench-eta`: how often a job ended by the times that it was told when it was accepted.

A stack with the starter model, and jobs of several lengths that come by chance (a Poisson process)
at a steady share of what the stack can bear. What was told is compared with the job's own queue_ms + run_ms.
"""

import argparse
import http.client
import json
import random
import threading
import time
from dataclasses import dataclass
from queue import Queue

from bench.stack import Bench, running

_TOKENS = (10, 200)  # of one job, the least and the most
_SENDERS = 16
_IDLE_SECONDS = 10.0


@dataclass(frozen=True)
class Told:
    """What one job was told."""

    job_id: str
    p50: float  # seconds from its acceptance
    p90: float


def main() -> None:
    """Print for each load how many of a hundred ended by p50, and by p90."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=float, nargs="*", default=[0.7, 0.9])
    parser.add_argument("--warm-up", type=float, default=60, help="seconds")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--slots", type=int, default=8)
    arguments = parser.parse_args()
    with running(SLOTS=str(arguments.slots)) as bench:
        capacity = _capacity(bench)
        print(f"the stack bears {capacity:.0f} such jobs a second", flush=True)
        for load in arguments.loads:
            _run(bench, capacity * load, arguments.warm_up)
            told = _run(bench, capacity * load, arguments.seconds)
            took = {one.job_id: _took(bench, one.job_id) for one in told}
            by50 = sum(took[one.job_id] <= one.p50 for one in told) / len(told)
            by90 = sum(took[one.job_id] <= one.p90 for one in told) / len(told)
            print(
                f"load {load:.2f}: {len(told)} jobs, {100 * by50:.1f} % by p50, {100 * by90:.1f} % by p90",
                flush=True,
            )


def _capacity(bench: Bench) -> float:
    """Jobs a second, with so many waiting that no slot is ever free."""
    count = 400
    began = time.monotonic()
    last = [_create(bench, number) for number in range(count)][-20:]
    for job_id, _ in last:
        _took(bench, job_id)
    return count / (time.monotonic() - began)


def _run(bench: Bench, rate: float, seconds: float) -> list[Told]:
    """Send jobs at that rate; returns what they were told."""
    due: Queue[float | None] = Queue()
    told: list[Told] = []
    began = time.monotonic()

    def send() -> None:
        while (at := due.get()) is not None:
            time.sleep(max(0.0, at - time.monotonic()))
            job_id, eta = _create(bench, random.randrange(10**9))
            if eta is not None:
                told.append(Told(job_id, *eta))  # append is atomic

    senders = [threading.Thread(target=send) for _ in range(_SENDERS)]
    at = began
    while at < began + seconds:
        at += random.expovariate(rate)
        due.put(at)
    for sender in senders:
        due.put(None)
        sender.start()
    for sender in senders:
        sender.join()
    return told


def _create(bench: Bench, number: int) -> tuple[str, tuple[float, float] | None]:
    draw = random.Random(number)
    body = {
        "model": "starter",
        "input": "\ndef ",
        "background": True,
        "max_output_tokens": draw.randint(*_TOKENS),
        "ignore_eos": draw.random() < 0.5,
        "seed": draw.randrange(2**31),
    }
    made = _call(bench, "POST", "/v1/responses", body)
    now, eta = time.time(), made["eta"]
    return made["id"], None if eta is None else (eta["p50"] - now, eta["p90"] - now)


def _took(bench: Bench, job_id: str) -> float:
    """Seconds from acceptance to the end, which is waited for."""
    while True:
        found = _call(bench, "GET", f"/v1/responses/{job_id}")
        if found["run_ms"] is not None and found["status"] in ("completed", "incomplete"):
            return float(found["queue_ms"] + found["run_ms"]) / 1000
        assert found["status"] in ("queued", "in_progress"), found
        time.sleep(0.2)


_local = threading.local()


def _call(bench: Bench, method: str, path: str, body: object = None) -> dict:  # type: ignore[type-arg]
    if not hasattr(_local, "connection"):
        _local.connection = http.client.HTTPConnection("127.0.0.1", bench.port, timeout=60)
    if time.monotonic() > getattr(_local, "used_at", 0.0) + _IDLE_SECONDS:
        _local.connection.close()  # the server may have closed it; it opens again
    _local.used_at = time.monotonic()
    headers = {"Authorization": f"Bearer {bench.key}", "Content-Type": "application/json"}
    _local.connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = _local.connection.getresponse()
    found: dict = json.loads(answer.read())  # type: ignore[type-arg]
    assert answer.status == 200, found
    return found


if __name__ == "__main__":
    main()
