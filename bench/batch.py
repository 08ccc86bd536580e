"""`make bench-batch`: a batch through the whole stack, on an engine that answers at once.

expand    lines/s from created to in_progress, of a file that is validated already
execute   lines/s that one process claims and settles as the worker does
finalize  lines/s from the last line's end to completed
poll      milliseconds of a GET of the batch with all its lines
peak      RSS of clerk and web, for each size: flat in the number of lines
"""

import argparse
import http.client
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from bench.stack import Bench, running
from jobs import batches, catalog, claims, execution, lifecycle
from jobs.database import Database
from jobs.queue import Chore, QueueName, make_signals
from jobs.settings import Settings
from jobs.tables import jobs
from stack import ROOT
from stack.processes import supervisor

_CLAIMED = 256  # jobs of one claim, as of a worker with so many slots
_SENTENCE = "def add(left, right):\n    return left + right  # "
_BOUNDARY = "penstock-bench"
_MODEL = "starter"
_PROCESSES = ("clerk", "web")


@dataclass
class Measured:
    """One batch."""

    lines: int
    upload: float = 0.0  # seconds, as the rest
    validate: float = 0.0
    expand: float = 0.0
    execute: float = 0.0
    finalize: float = 0.0
    polls: list[float] = field(default_factory=list)
    peak: dict[str, float] = field(default_factory=dict)  # megabytes


class Client:
    """Requests on one connection."""

    def __init__(self, bench: Bench) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", bench.port, timeout=600)
        self._key = bench.key

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The JSON of an answer."""
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": kind}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        found = json.load(answer)
        if answer.status != 200:
            raise SystemExit(f"{method} {path} answered {answer.status}: {found}")
        return found

    def upload(self, lines: Iterable[str]) -> str:
        """The id of a new file of these lines."""
        parts = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n',
            "Content-Type: application/octet-stream\r\n\r\n",
            *lines,
            f"\r\n--{_BOUNDARY}--\r\n",
        ]
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        return str(self.call("POST", "/v1/files", "".join(parts).encode(), kind)["id"])

    def until(self, path: str, statuses: set[str], polls: list[float] | None = None) -> Any:
        """What a URL says once its status is one of these."""
        while True:
            began = time.perf_counter()
            found = self.call("GET", path)
            if polls is not None:
                polls.append((time.perf_counter() - began) * 1000)
            if found["status"] in statuses:
                return found
            time.sleep(0.25)


def measure(bench: Bench, lines: int) -> Measured:
    """One batch of so many lines, its phases one after the other."""
    settings = Settings(var_dir=Path(bench.environment["VAR_DIR"]))
    client, measured = Client(bench), Measured(lines)
    pids = {name: _pids(settings, name) for name in _PROCESSES}
    for pid in (pid for group in pids.values() for pid in group):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the peak so far
    began = time.perf_counter()
    file_id = client.upload(map(_line, range(lines)))
    measured.upload = time.perf_counter() - began
    client.until(f"/v1/files/{file_id}", {"processed"})
    measured.validate = time.perf_counter() - began - measured.upload
    asked = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
    made = client.call("POST", "/v1/batches", json.dumps(asked).encode())
    path = f"/v1/batches/{made['id']}"
    client.until(path, {"in_progress"})
    engine = _start_engine(bench)
    try:
        done = client.until(path, {"completed"}, measured.polls)
    finally:
        engine.send_signal(signal.SIGTERM)
        engine.wait(timeout=30)
    assert done["request_counts"] == {"total": lines, "completed": lines, "failed": 0}, done
    _read_times(settings, made["id"], measured)
    measured.peak = {name: sum(map(_peak, group)) for name, group in pids.items()}
    return measured


def engine(settings: Settings) -> None:
    """Claim and settle as the worker does, with an output for every job at once, until told to stop."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    database, signals = Database(settings.database, connections=1), make_signals(settings)
    with database.transaction() as connection:
        version = catalog.listing(connection)[_MODEL].version
    assert version is not None
    output = _OUTPUT | {"model_digest": version.digest}
    while not stopped:
        with database.transaction() as connection:
            taken = claims.claim(connection, QueueName.GENERATE, _MODEL, "fake", settings.lease, _CLAIMED)
        group = [execution.ending(job, output, 1) for job in taken]
        with database.transaction() as connection:
            lifecycle.settle(connection, group)
            ended = batches.any_idle(connection, {ending.batch_id for ending in group})
        if ended:
            signals.ring(Chore.BATCHES)
        if not taken:
            time.sleep(0.02)
    signals.close()
    database.close()


_OUTPUT: dict[str, Any] = {
    "sequences": [{"text": " value" * 16, "tokens": list(range(100, 116)), "finish_reason": "length"}],
    "prompt_tokens": 20,
    "output_tokens": 16,
    "engine_ms": 1.0,
}


def _line(number: int) -> str:
    body = {"model": _MODEL, "prompt": f"{_SENTENCE}{number}\n" * 3, "max_tokens": 16, "seed": number}
    line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(line) + "\n"


def _start_engine(bench: Bench) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bench.batch", "--engine"]
    return subprocess.Popen(command, env=bench.environment, cwd=ROOT)


def _read_times(settings: Settings, batch_id: str, measured: Measured) -> None:
    database = Database(settings.database, connections=1)
    with database.transaction() as connection:
        batch = batches.read(connection, batch_id)
        lines = select(func.min(jobs.c.started_at), func.max(jobs.c.finished_at))
        first, last = connection.execute(lines.where(jobs.c.batch_id == batch_id)).one()
    database.close()
    assert batch.in_progress_at is not None
    assert batch.completed_at is not None
    measured.expand = (batch.in_progress_at - batch.created_at).total_seconds()
    measured.execute = (last - first).total_seconds()
    measured.finalize = (batch.completed_at - last).total_seconds()


def _pids(settings: Settings, name: str) -> list[int]:
    """The processes of one of the stack's programs: itself and its children."""
    with supervisor(settings) as control:
        pid = int(control.getProcessInfo(f"app:{name}")["pid"])
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def _peak(pid: int) -> float:
    """Megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def _show(measured: Measured) -> None:
    lines = measured.lines
    print(f"{lines} lines")
    print(f"  upload    {measured.upload:.2f} s, validated after {measured.validate:.2f} s")
    for name in ("expand", "execute", "finalize"):
        seconds = getattr(measured, name)
        print(f"  {name:9} {lines / seconds:.0f} lines/s ({seconds:.1f} s)")
    polls = measured.polls
    print(f"  poll      {statistics.median(polls):.0f} ms, at most {max(polls):.0f} ms")
    print("  peak      " + ", ".join(f"{name} {size:.0f} MB" for name, size in measured.peak.items()))


def main() -> None:
    """Measure each size and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--engine", action="store_true", help="be the engine, as the bench starts it")
    asked = parser.parse_args()
    if asked.engine:
        engine(Settings())
        return
    with running() as bench, bench.worker_stopped():
        for lines in asked.lines:
            _show(measure(bench, lines))


if __name__ == "__main__":
    main()
