"""Every process of a stack in a folder of its own, restarted when it dies, as a supervisor would."""

import configparser
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from jobs import embedded, keys
from jobs.database import Database
from jobs.settings import Settings
from stack import ROOT
from stack.migrate import migrate
from stack.processes import configuration
from stack.up import available, wait_for_models
from tests.faults.chaos import MODEL
from tests.faults.proxy import Proxy

LEASE_SECONDS = 3
HEARTBEAT_SECONDS = 1
SLOTS = 8
_LOOK_SECONDS = 0.02
_PAUSE_SECONDS = 0.5  # before a process that had just begun is tried again
_BEGUN_SECONDS = 1.0
_STOP_SECONDS = 30
_READY_SECONDS = 180


def role(name: str) -> str:
    """What a program is, however many of it there are."""
    return name.rstrip("0123456789")


@dataclass(eq=False)
class Program:
    """One process that is kept running."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    held: bool = False  # down until it is released
    started_at: float = 0.0  # time.time()
    starts: int = 0

    @property
    def pid(self) -> int:
        """Its process id, 0 while it is down."""
        return self.process.pid if self.process is not None and self.process.poll() is None else 0


@dataclass(eq=False)
class Stack:
    """PostgreSQL, Redis, web, workers, clerk and sweeper behind two proxies; `programs` by name."""

    folder: Path
    workers: int = 2
    trainer: bool = False
    programs: dict[str, Program] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.var_dir = self.folder / "var"
        self.port, postgres, redis = _free_port(), _free_port(), _free_port()
        self.database_url = f"postgresql+psycopg://penstock@127.0.0.1:{postgres}/postgres"
        self.redis_url = f"redis://127.0.0.1:{redis}/0"
        self._ports = {"postgres": postgres, "redis": redis}
        self.database_proxy = Proxy(("127.0.0.1", postgres))
        self.redis_proxy = Proxy(("127.0.0.1", redis))
        self._stopping = threading.Event()
        self._changing = threading.Lock()  # over starts and stops
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    @property
    def worker_names(self) -> list[str]:
        """Of the programs that generate."""
        return [name for name in self.programs if name.startswith("worker")]

    def starts(self) -> Counter[str]:
        """How often a process of each role was started."""
        counted: Counter[str] = Counter()
        for name, program in self.programs.items():
            counted[role(name)] += program.starts
        return counted

    def start(self) -> None:
        """Make the model, start the servers, migrate, start the rest; return when the model can be had.

        Raises:
            RuntimeError: it did not become ready.
        """
        embedded.prepare(self.var_dir)
        source = self.folder / "model"
        subprocess.run([sys.executable, "-m", "tests.faults.chaos.model", str(source)], cwd=ROOT, check=True)
        self._describe(source)
        for name in ("postgres", "redis"):
            self.programs[name].held = False
        self._supervisor.start()
        database = Database(self.database_url, connections=1)
        database.wait_until_up(60)
        migrate(self.database_url)
        database.close()
        for program in self.programs.values():
            program.held = False
        self.wait_until_ready(_READY_SECONDS)

    def wait_until_ready(self, seconds: float) -> None:
        """Return when a model can be had. Raises RuntimeError."""
        ready = wait_for_models(f"http://127.0.0.1:{self.port}", seconds, lambda: not self._stopping.is_set())
        if ready is None or not available(ready):
            raise RuntimeError(f"the stack is not ready after {seconds} s; {self.var_dir / 'log'} says why")

    def issue_keys(self, owners: int) -> list[str]:
        """A key without limits for each of so many owners."""
        database = Database(self.database_url, connections=1)
        with database.transaction() as connection:
            made = [keys.issue(connection, f"owner {number}") for number in range(owners)]
        database.close()
        return made

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection to PostgreSQL that passes no proxy. Raises OperationalError while it is down."""
        url = self.database_url.replace("+psycopg", "")
        return psycopg.connect(url, autocommit=True, connect_timeout=3, options="-c statement_timeout=60000")

    def pid(self, name: str) -> int:
        """A program's process id, 0 while it is down."""
        return self.programs[name].pid

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal; returns to whom, 0 if it was down already."""
        if pid := self.pid(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    @contextlib.contextmanager
    def down(self, name: str, number: signal.Signals = signal.SIGKILL) -> Iterator[None]:
        """End a program and start it again only after the block."""
        program = self.programs[name]
        program.held = True
        try:
            self.send(name, number)
            if program.process is not None:
                program.process.wait(timeout=_STOP_SECONDS)
            yield
        finally:
            program.held = False

    @contextlib.contextmanager
    def another(self, name: str, **environment: str) -> Iterator[int]:
        """One more process of a program beside the first, during the block; gives its process id."""
        program = self.programs[name]
        twin = Program(name, program.command, program.environment | environment, program.log)
        with self._changing:
            self._spawn(twin)
        try:
            yield twin.pid
        finally:
            _end([twin])

    def stop(self) -> None:
        """End everything: first Penstock's processes, then the servers."""
        self._stopping.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        servers = [self.programs[name] for name in ("postgres", "redis") if name in self.programs]
        _end([program for program in self.programs.values() if program not in servers])
        _end(servers, signal.SIGINT)
        self.database_proxy.close()
        self.redis_proxy.close()

    def _describe(self, source: Path) -> None:
        """What runs, by the product's own configuration of its supervisor."""
        described = configparser.RawConfigParser()
        described.read_string(configuration(Settings(var_dir=self.var_dir)))
        commands = {
            section.removeprefix("program:"): shlex.split(described[section]["command"].replace("%%", "%"))
            for section in described.sections()
            if section.startswith("program:")
        }
        listening = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={self._ports['postgres']}"]
        commands["postgres"] += listening
        commands["redis"] += ["--port", str(self._ports["redis"])]
        if not self.trainer:
            commands.pop("trainer")
        worker = [part.replace("worker.app", "tests.faults.chaos.poison") for part in commands.pop("worker")]
        commands |= {f"worker{number}": worker for number in range(1, self.workers + 1)}
        for name, command in commands.items():
            environment = self._environment(source) | ({"WORKER_NAME": name} if "worker" in name else {})
            log = self.var_dir / "log" / f"{name}.log"
            self.programs[name] = Program(name, command, environment, log, held=True)

    def _environment(self, source: Path) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
        return clean | {
            "PYTHONPATH": str(ROOT),
            "VAR_DIR": str(self.var_dir),
            "PORT": str(self.port),
            "DATABASE_URL": f"postgresql://penstock@127.0.0.1:{self.database_proxy.port}/postgres",
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_proxy.port}/0",
            "MODELS": f"{MODEL}={source}",
            "SLOTS": str(SLOTS),
            "TORCH_THREADS": "1",
            "MEMORY_GB": "1",
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            "DRAIN_SECONDS": "10",
        }

    def _supervise(self) -> None:
        # children are told when this very thread ends, so all that are kept are started here
        while not self._stopping.wait(_LOOK_SECONDS):
            with self._changing:
                for program in self.programs.values():
                    self._keep(program)

    def _keep(self, program: Program) -> None:
        if program.held or program.pid:
            return
        lived = time.time() - program.started_at
        if program.starts and program.process is not None and lived < _BEGUN_SECONDS + _PAUSE_SECONDS:
            return  # it ended at once: not again and again without a pause
        self._spawn(program)

    def _spawn(self, program: Program) -> None:
        with program.log.open("ab") as log:
            program.process = subprocess.Popen(
                program.command,
                env=program.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        program.started_at, program.starts = time.time(), program.starts + 1


def _end(programs: list[Program], number: signal.Signals = signal.SIGTERM) -> None:
    alive = [each.process for each in programs if each.process is not None and each.pid]
    for process in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, number)
    deadline = time.monotonic() + _STOP_SECONDS
    for process in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=_STOP_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
