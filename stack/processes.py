"""What runs on one machine, as a supervisord configuration: who starts first, who stops first, and how."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from jobs import embedded
from jobs.queue import QUIET, QueueName
from jobs.settings import Settings
from stack import ROOT

SERVERS = "servers"
"""PostgreSQL and Redis, where they are embedded; they stop last."""
APP = "app"
"""Penstock's own processes: started once the database is migrated, stopped before the servers."""


@dataclass(frozen=True)
class Process:
    """One program that supervisord keeps running."""

    name: str
    command: list[str]
    stop_signal: str
    stop_seconds: float
    at_once: bool  # or when told
    rank: int = 0  # in its group: who has more is told to stop first


def configuration(settings: Settings) -> str:
    """The text of supervisord.conf: every process in its own process group, restarted when it dies."""
    run, log = embedded.run_folder(settings.var_dir), settings.var_dir / "log"
    processes = [*_servers(settings), *_app(settings)]
    head: dict[str, dict[str, object]] = {
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "user": "root" if os.getuid() == 0 else None,
            "logfile": log / "supervisord.log",
            "pidfile": run / "supervisord.pid",
            "childlogdir": log,
            "directory": ROOT,
        },
        "unix_http_server": {"file": control_socket(settings), "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for priority, group in enumerate((SERVERS, APP)):  # they start in this order and stop in the reverse
        members = [process.name for process in processes if process.at_once == (group == SERVERS)]
        if members:
            head[f"group:{group}"] = {"programs": ",".join(members), "priority": priority}
    programs = {f"program:{process.name}": _program(process, log) for process in processes}
    return "\n".join(_section(name, values) for name, values in (head | programs).items())


def control_socket(settings: Settings) -> Path:
    """Where supervisord takes orders."""
    return embedded.run_folder(settings.var_dir) / "supervisord.sock"


@contextmanager
def supervisor(settings: Settings) -> Iterator[Any]:
    """The remote control of the running supervisord: its XML-RPC interface."""
    transport = SupervisorTransport(serverurl=f"unix://{control_socket(settings)}")
    with ServerProxy("http://localhost", transport) as control:
        yield control.supervisor


def _servers(settings: Settings) -> list[Process]:
    servers = []
    if settings.database_url is None:
        command = embedded.postgres_command(settings.var_dir)
        servers.append(Process("postgres", command, "INT", 2, True))
    if settings.redis_url is None:
        servers.append(Process("redis", embedded.redis_command(settings.var_dir), "TERM", 2, True))
    return servers


def app_commands(python: str) -> dict[str, list[str]]:
    """Penstock's own processes, as `Procfile` has them too; in this order they are told to stop.

    Web refuses newcomers before anybody's work ends.
    """
    return {
        "web": [python, "-m", "gunicorn", "--config", "web/gunicorn.conf.py", "web.wsgi:app"],
        "worker": [python, "-m", "worker.app"],
        "trainer": [python, "-m", "trainer.app"],
        "clerk": _celery(python, "web.clerk", QueueName.CLERK),
        "sweeper": [python, "-m", "jobs.sweeper"],
    }


def _app(settings: Settings) -> list[Process]:
    commands = app_commands(sys.executable).items()
    return [
        Process(name, command, "TERM", settings.stop_seconds, at_once=False, rank=len(commands) - place)
        for place, (name, command) in enumerate(commands)
    ]


def _celery(python: str, module: str, queue: QueueName) -> list[str]:
    celery = [python, "-m", "celery", "--quiet", "--app", module]
    return [*celery, "worker", "--queues", queue, "-n", f"{queue}@%h", *QUIET]


def _program(process: Process, log: Path) -> dict[str, object]:
    # A process whose supervisor was killed stops by itself, so nothing is ever left behind.
    inner = process.command[1:] if process.command[0] == "setpriv" else process.command
    return {
        "command": shlex.join(["setpriv", "--pdeathsig", process.stop_signal, *inner]),
        "autostart": str(process.at_once).lower(),
        "priority": process.rank,
        "autorestart": "true",
        "startsecs": 1,
        "startretries": 1_000_000,  # a server that is away for an hour must find everybody still trying
        "stopsignal": process.stop_signal,
        "stopwaitsecs": max(1, round(process.stop_seconds)),
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": log / f"{process.name}.log",
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": 2,
    }


def _section(name: str, values: dict[str, object]) -> str:
    lines = [f"{key} = {str(value).replace('%', '%%')}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])
