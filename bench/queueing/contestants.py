"""PostgreSQL, Redis, and the processes that ask them: those of Penstock and of its peers."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil  # type: ignore[import-untyped]
import psycopg
import redis
from alembic import command

from jobs import embedded
from jobs.database import Database
from stack import ROOT
from stack.migrate import alembic_config

PEERS = Path(os.environ.get("QUEUE_PEERS", ROOT / ".venv-queue-peers")) / "bin"
_MODULES = "bench.queueing."
_POLL_SECONDS = 0.005
_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # nothing is left behind, however the bench ends


class Process:
    """One process of a contestant; stopped until it is wanted."""

    def __init__(self, arguments: list[str], environment: dict[str, str], answers: bool = True) -> None:
        self._process = subprocess.Popen(
            [*_WITH_US, *arguments],
            cwd=ROOT,
            env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tree = psutil.Process(self._process.pid)
        if answers:
            assert self._read() == "ready"

    def ask(self, **asked: Any) -> dict[str, Any]:
        """What it answers."""
        assert self._process.stdin is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        found: dict[str, Any] = self._read()
        return found

    @property
    def cpu(self) -> float:
        """Seconds of the processor, of it and its children."""
        return _cpu([self._tree])

    def send(self, number: signal.Signals) -> None:
        """To it and its children."""
        for each in [self._tree, *self._tree.children(recursive=True)]:
            each.send_signal(number)

    def close(self) -> None:
        """End all of it."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contestant ended: {self._process.args!r}")
        return json.loads(line)


@dataclass
class Servers:
    """PostgreSQL and Redis, which all share."""

    var_dir: Path
    processes: list[psutil.Process]
    postgres: "psycopg.Connection[Any]"
    results: "redis.Redis"

    @property
    def cpu(self) -> float:
        """Seconds of the processor, of all their processes."""
        return _cpu(self.processes)

    @property
    def environment(self) -> dict[str, str]:
        """What tells the contestants where they are."""
        url = embedded.redis_url(self.var_dir)
        return {
            "VAR_DIR": str(self.var_dir),
            "LOG_LEVEL": "WARNING",
            "BENCH_REDIS_SOCKET": unquote(url.removeprefix("unix://")),
            "BENCH_DATABASE": f"host={embedded.run_folder(self.var_dir)} user=penstock dbname=postgres",
        }


@dataclass
class Round:
    """What one contestant did in one round."""

    jobs: int
    submitted: float  # seconds until the last was accepted
    stored: float  # seconds until the last result was
    callers_cpu: float  # seconds, as the next two
    worker_cpu: float
    server_cpu: float
    statements: int


@dataclass
class Contestant:
    """Its two processes, and how the servers tell that nothing is left to do."""

    name: str
    callers: Process
    worker: Process
    clear: Callable[[], object]
    left: Callable[[int], bool]
    counts: bool = True
    asked: dict[str, Any] = field(default_factory=dict)

    def round(self, servers: Servers, jobs: int, wait: bool) -> Round:
        """Let it do so many."""
        self.clear()
        for process in (self.callers, self.worker):
            process.send(signal.SIGCONT)
        counted = self._statements()
        before = (self.callers.cpu, self.worker.cpu, servers.cpu)
        began = time.perf_counter()
        said = self.callers.ask(jobs=jobs, wait=wait, **self.asked)
        while self.left(jobs):
            time.sleep(_POLL_SECONDS)
        stored = time.perf_counter() - began
        after = (self.callers.cpu, self.worker.cpu, servers.cpu)
        counted = self._statements() - counted + said.get("statements", 0)
        for process in (self.callers, self.worker):
            process.send(signal.SIGSTOP)
        callers, worker, shared = (late - early for early, late in zip(before, after, strict=True))
        return Round(jobs, said["seconds"], stored, callers, worker, shared, counted)

    def _statements(self) -> int:
        return int(self.worker.ask()["statements"]) if self.counts else 0


@contextmanager
def servers() -> Iterator[Servers]:
    """Both, empty but for Penstock's tables."""
    with ExitStack() as stack:
        var_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        embedded.prepare(var_dir)
        commands = [embedded.postgres_command(var_dir), embedded.redis_command(var_dir)]
        running = [
            subprocess.Popen([*_WITH_US, *one], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for one in commands
        ]
        stack.callback(_end, running)
        url = embedded.postgres_url(var_dir)
        database = Database(url, connections=1)
        database.wait_until_up(30)
        database.close()
        command.upgrade(alembic_config(url), "head")
        where = url.replace("postgresql+psycopg", "postgresql")
        postgres = stack.enter_context(psycopg.connect(where, autocommit=True))
        postgres.execute("INSERT INTO owners (name) VALUES ('bench')")
        results = stack.enter_context(redis.Redis.from_url(embedded.redis_url(var_dir), db=2))
        yield Servers(var_dir, [psutil.Process(one.pid) for one in running], postgres, results)


def penstock(found: Servers, environment: dict[str, str]) -> Contestant:
    """Its own door and its own worker."""
    asked = "SELECT EXISTS (SELECT FROM jobs WHERE state IN ('queued', 'running'))"
    python = sys.executable
    return Contestant(
        "Penstock",
        Process([python, "-m", f"{_MODULES}penstock_callers"], environment),
        Process([python, "-m", f"{_MODULES}penstock_worker"], environment),
        lambda: found.postgres.execute("TRUNCATE jobs CASCADE"),
        lambda _: _exists(found, asked),
    )


def celery(found: Servers, environment: dict[str, str], pool: str) -> Contestant:
    """Plain Celery with its Redis backend."""
    run = [str(PEERS / "python"), "-m"]
    options = [*pool.split(), "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
    app = f"{_MODULES}celery_app"
    return Contestant(
        "Celery",
        Process([*run, f"{_MODULES}celery_callers"], environment),
        Process([*run, "celery", "--quiet", "-A", app, "worker", *options], environment, answers=False),
        found.results.flushdb,
        lambda jobs: int(found.results.dbsize()) < jobs,
        counts=False,
    )


def procrastinate(found: Servers, environment: dict[str, str]) -> list[Contestant]:
    """On the same PostgreSQL: the same processes twice, with jobs deferred one by one and by 64."""
    schema = [str(PEERS / "procrastinate"), "--app", f"{_MODULES}procrastinate_app.app", "schema", "--apply"]
    own = os.environ | environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run(schema, cwd=ROOT, env=own, check=True, stdout=subprocess.DEVNULL)
    asked = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
    run = [str(PEERS / "python"), "-m"]
    callers = Process([*run, f"{_MODULES}procrastinate_callers"], environment)
    worker = Process([*run, f"{_MODULES}procrastinate_worker"], environment)
    return [
        Contestant(
            f"procrastinate, {name}",
            callers,
            worker,
            lambda: found.postgres.execute("TRUNCATE procrastinate_jobs, procrastinate_events CASCADE"),
            lambda _: _exists(found, asked),
            asked={"batches": name == "batch_defer"},
        )
        for name in ("defer", "batch_defer")
    ]


def _exists(found: Servers, query: str) -> bool:
    row = found.postgres.execute(query).fetchone()
    return bool(row and row[0])


def _cpu(roots: list[psutil.Process]) -> float:
    """Of processes, their children, and those of their children that ended."""
    total = 0.0
    for root in roots:
        for each in [root, *root.children(recursive=True)]:
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _end(running: "list[subprocess.Popen[bytes]]") -> None:
    for process in running:
        process.send_signal(signal.SIGINT)  # PostgreSQL waits for nobody then
    for process in running:
        process.wait(timeout=60)
