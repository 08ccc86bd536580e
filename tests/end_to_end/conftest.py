"""A whole stack, started as a user starts it, shared by the end-to-end tests."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import Settings
from stack.processes import APP, SERVERS, supervisor
from tests.conftest import ROOT, wait_for

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n# {{ message.role }}\n{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}\n# assistant\n{% endif %}"
)
FINAL = {"completed", "incomplete", "failed", "cancelled"}


@dataclass
class RunningStack:
    """`make up`, and the requests of a client."""

    process: "subprocess.Popen[str]"
    settings: Settings
    environment: dict[str, str]
    key: str = ""
    output: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def call(self, method: str, path: str, body: Any = None, timeout: float = 60) -> tuple[int, Any]:
        """Send one request; return the status and the JSON."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def submit(self, **body: Any) -> str:
        """One background generation; return its id."""
        asked = {"model": "starter", "input": "\ndef ", "background": True, "ignore_eos": True} | body
        status, job = self.call("POST", "/v1/responses", asked)
        assert status == 200, job
        return str(job["id"])

    def get(self, job_id: str) -> Any:
        return self.call("GET", f"/v1/responses/{job_id}")[1]

    def end(self, job_id: str, seconds: float = 60) -> Any:
        """The final object of a job."""
        return wait_for(lambda: job if (job := self.get(job_id))["status"] in FINAL else None, seconds)

    def pid(self, name: str) -> int:
        """The process id of one of the stack's programs; 0 while it is down."""
        program = f"{SERVERS if name in ('postgres', 'redis') else APP}:{name}"
        with supervisor(self.settings) as control:
            return int(control.getProcessInfo(program)["pid"])

    def stop(self) -> int:
        """Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=self.settings.drain_seconds + 10)
        self.output.append(rest)
        return self.process.returncode


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> int:
    """The first of so many free ones in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


def start_stack(var_dir: Path, **environment: str) -> RunningStack:
    """Start `python -m stack.up`, as `make up` does, and wait until it says that it is up."""
    own = {
        "VAR_DIR": str(var_dir),
        "PORT": str(free_port()),
        "SLOTS": "8",
        **environment,
    }
    clean = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
    env = {**clean, **own, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "stack.up"],
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    settings = Settings(**{name.lower(): value for name, value in own.items()})  # type: ignore[arg-type]
    stack = RunningStack(process, settings, env)
    assert process.stdout is not None
    for line in process.stdout:
        stack.output.append(line)
        if found := re.search(r"API key: (sk-\S+)", line):
            stack.key = found[1]
        if line.startswith("Ctrl-C"):
            return stack
    raise AssertionError("the stack did not start: " + "".join(stack.output))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack with short leases, for everybody; `chatty` is the starter with a chat template."""
    folder = tmp_path_factory.mktemp("stack")
    shutil.copytree(ROOT / "models" / "starter", folder / "chatty")
    (folder / "chatty" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    models = f"starter=models/starter,chatty={folder / 'chatty'}"
    short = {"LEASE_SECONDS": "4", "HEARTBEAT_SECONDS": "1"}
    running = start_stack(folder / "var", MODELS=models, METRICS_PORT=str(free_ports(5)), **short)
    yield running
    assert running.stop() == 0
