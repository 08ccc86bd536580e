"""A stack whose processes are the test's children, each behind proxies of its own to PostgreSQL and Redis."""

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from jobs import embedded
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.queue import DOORBELLS, QueueName, _queue_of, make_celery
from jobs.settings import Settings
from stack.migrate import migrate
from stack.processes import _celery
from tests.conftest import ROOT, wait_for
from tests.end_to_end.conftest import free_port
from tests.faults.proxy import Proxy

LEASE, BEAT = 3.0, 0.5  # seconds
SWEEP = LEASE / 6 * 1.2  # seconds between two rounds of the sweeper, at most
SLOTS = 8

COMMANDS = {
    "web": [sys.executable, "-m", "gunicorn", "--config", "web/gunicorn.conf.py", "web.wsgi:app"],
    "worker": [sys.executable, "-m", "worker.app"],
    "clerk": _celery(sys.executable, "web.clerk", QueueName.CLERK),
    "sweeper": [sys.executable, "-m", "jobs.sweeper"],
}


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Message
    body: Any


@dataclass(frozen=True, eq=False)
class Process:
    """A process of the stack, and its ways to the servers."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path
    database: Proxy
    redis: Proxy
    usual: bool  # as `put_right` starts it

    def signal(self, number: signal.Signals) -> None:
        """Send it to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.popen.wait()
        self.database.close()
        self.redis.close()

    def died(self, seconds: float = 30) -> int:
        """Wait for its end; return its exit status, negative of a signal."""
        return self.popen.wait(seconds)

    @property
    def lives(self) -> bool:
        """Whether it has not ended; a stopped one lives."""
        return self.popen.poll() is None

    @property
    def stands(self) -> bool:
        """Whether it was stopped by a signal."""
        stat = Path(f"/proc/{self.popen.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    @property
    def said(self) -> str:
        """What it wrote into its log."""
        return self.log.read_text(errors="replace")


class House:
    """The servers, the processes by name, and what a client does."""

    def __init__(self, folder: Path) -> None:
        """Start the servers, no process yet."""
        self.folder = folder
        self.settings = Settings(_env_file=None, var_dir=folder)  # type: ignore[call-arg]
        self.processes: dict[str, Process] = {}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._numbers = itertools.count(1)
        embedded.prepare(folder)
        for server in ("postgres", "redis"):
            self.start_server(server)
        self.database = Database(self.settings.database, connections=20)
        self.key = migrate(self.settings.database)
        self.port = free_port()

    def start_server(self, name: str) -> None:
        """Start PostgreSQL or Redis and return once it answers; one that is there already is no matter."""
        commands = {"postgres": embedded.postgres_command, "redis": embedded.redis_command}

        def answers() -> bool:
            running = self._servers.get(name)
            if running is None or running.poll() is not None:
                # again and again: of a PostgreSQL that was killed the memory is held for a moment
                with (self.folder / "log" / f"{name}.log").open("ab") as log:
                    self._servers[name] = subprocess.Popen(
                        commands[name](self.folder), stdout=log, stderr=log, start_new_session=True
                    )
            return self._answers(name)

        wait_for(answers, 60, every=0.05)

    def _answers(self, name: str) -> bool:
        with contextlib.suppress(DatabaseUnavailable, redis.RedisError):
            if name == "redis":
                with self.redis() as client:
                    return bool(client.ping())
            probe = Database(self.settings.database, connections=1)
            try:
                with probe.transaction() as connection:
                    return connection.execute(text("SELECT 1")).scalar() == 1
            finally:
                probe.close()
        return False

    def redis(self) -> "redis.Redis":
        """A client of Redis, past every proxy."""
        return redis.Redis.from_url(self.settings.redis)

    def ring(self, bell: str, times: int = 1) -> None:
        """Ring a bell as web does, past every proxy."""
        task = DOORBELLS[QueueName(bell)] if bell in DOORBELLS else bell
        with make_celery(self.settings) as app:
            for _ in range(times):
                app.send_task(task, queue=_queue_of(bell))

    def bells(self, queue: QueueName) -> int:
        """How many bells wait to be heard."""
        with self.redis() as client:
            return int(client.llen(f"penstock:{queue}"))

    def signal_server(self, name: str, number: signal.Signals) -> None:
        """Send it to PostgreSQL or Redis, and to its children."""
        os.killpg(self._servers[name].pid, number)

    def kill_server(self, name: str) -> None:
        """SIGKILL, all of it."""
        self.signal_server(name, signal.SIGKILL)
        self._servers[name].wait()

    def start(self, name: str, command: list[str] | None = None, **environment: str) -> Process:
        """Start web, worker, clerk or sweeper, or `command` in its place, and return once it serves."""
        kind = name.rstrip("0123456789")
        url = embedded.run_folder(self.folder)
        doors = Proxy(f"{url}/.s.PGSQL.5432"), Proxy(f"{url}/redis.sock")
        own = {
            "VAR_DIR": str(self.folder),
            "PORT": str(self.port),
            "DATABASE_URL": f"postgresql://penstock@127.0.0.1:{doors[0].port}/postgres?{_PLAIN}",
            "REDIS_URL": f"redis://127.0.0.1:{doors[1].port}/0",
            "WORKER_NAME": name,
            "SLOTS": str(SLOTS),
            "TORCH_THREADS": "1",
            "LEASE_SECONDS": f"{LEASE:g}",
            "HEARTBEAT_SECONDS": f"{BEAT:g}",
            "DRAIN_SECONDS": "7",
            "STEP_TIMEOUT_SECONDS": "10",
            "WEBHOOK_ALLOW_PRIVATE": "true",
            "PYTHONPATH": str(ROOT),
        }
        clean = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
        log = self.folder / "log" / f"{name}.log"
        with log.open("ab") as out:
            popen = subprocess.Popen(
                command or COMMANDS[kind],
                cwd=ROOT,
                env=clean | own | environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.processes[name] = process = Process(
            name, popen, log, *doors, usual=command is None and not environment and name in COMMANDS
        )
        if kind == "web":
            wait_for(lambda: not process.lives or self._status("GET", "/healthz") == 200, 90, every=0.05)
            assert process.lives, process.said[-2000:]
        elif kind == "worker":
            wait_for(lambda: self._offers(name) or not process.lives, 90, every=0.05)
        return process

    def worker(self, command: list[str] | None = None, **environment: str) -> Process:
        """Start one more worker under a name of its own, which is gone when the next test begins."""
        return self.start(f"worker{next(self._numbers)}", command, **environment)

    def workers(self, count: int, command: list[str] | None = None, **environment: str) -> list[Process]:
        """As `worker`, several side by side."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.worker(command, **environment), range(count)))

    def restart(self, name: str, **environment: str) -> Process:
        """Kill a process and start it like this; it is as usual again when the next test begins."""
        self.processes[name].kill()
        return self.start(name, **environment)

    def _offers(self, worker: str) -> bool:
        with self.database.transaction() as connection:
            asked = text("SELECT 1 FROM offers WHERE worker = :worker AND version_id IS NOT NULL")
            return connection.execute(asked, {"worker": worker}).first() is not None

    def wait_until_it_serves(self) -> None:
        """Return once web answers and has the model to offer."""
        wait_for(lambda: self._status("GET", "/v1/models/starter") == 200, 90, every=0.05)

    def _status(self, method: str, path: str) -> int:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.call(method, path).status
        return 0

    def put_right(self) -> None:
        """Whatever a test has done: every server and usual process runs, unhindered, and no other."""
        for name in ("postgres", "redis"):
            if self._servers[name].poll() is None:
                self.signal_server(name, signal.SIGCONT)
            self.start_server(name)
        with self.redis() as client:
            client.config_set("maxmemory", "256mb")
            client.flushall()
        for name, process in list(self.processes.items()):
            process.signal(signal.SIGCONT)
            for door in (process.database, process.redis):
                door.heal()
            if not process.usual or not process.lives:
                process.kill()
                del self.processes[name]
        for name in COMMANDS:
            if name not in self.processes:
                self.start(name)
        self.wait_until_it_serves()

    @contextmanager
    def paused(self, name: str) -> Iterator[Process]:
        """Let a process stand still within the block: a worker then claims nothing."""
        process = self.processes[name]
        process.signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            process.signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill everything."""
        for process in self.processes.values():
            process.signal(signal.SIGCONT)
            process.kill()
        self.database.close()
        for name, server in self._servers.items():
            if server.poll() is None:
                self.kill_server(name)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
        timeout: float = 60,
    ) -> Answer:
        """One request on a connection of its own. Raises OSError or HTTPException where it breaks off."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        given = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, sent, given | dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, json.loads(answer.read() or b"null"))
        finally:
            connection.close()


_PLAIN = "sslmode=disable&gssencmode=disable"
