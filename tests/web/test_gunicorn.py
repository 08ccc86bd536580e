"""The server as it is really run: its folder, its log, its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs import embedded
from jobs.database import Database
from jobs.settings import Settings
from tests.conftest import ROOT, wait_for

CANARY = "canary-7d1f"


class Server:
    """A gunicorn and what it wrote."""

    def __init__(self, var_dir: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{port}", log
        settings = {"PORT": str(port), "VAR_DIR": str(var_dir), "DRAIN_SECONDS": "20", "LOG_LEVEL": "DEBUG"}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "web" / "gunicorn.conf.py")],
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=out,
                stderr=out,
            )

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.address}/healthz").is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=15)


@pytest.fixture
def server(settings: Settings, offered: Database, tmp_path: Path) -> Iterator[Server]:
    """A running one."""
    server = Server(settings.var_dir, tmp_path / "log")
    wait_for(server.answers)
    yield server
    if server.process.poll() is None:
        server.stop()


def test_it_serves_stops_in_order_and_keeps_secrets(
    server: Server, settings: Settings, offered: Database, key: str
) -> None:
    assert (embedded.run_folder(settings.var_dir) / "gunicorn.ctl").exists()
    asked = {"model": "starter", "input": CANARY, "background": True}
    polls: list[httpx.Response] = []
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        made = client.post(f"{server.address}/v1/responses", json=asked).json()
        client.post(f"{server.address}/v1/responses", json={**asked, "input": f"{CANARY}\0"})
        client.post(f"{server.address}/v1/responses", json={**asked, "input": {CANARY: CANARY}})
        client.get(f"{server.address}/v1/models", headers={"Authorization": f"Bearer {CANARY}"})
        poll = threading.Thread(
            target=lambda: polls.append(client.get(f"{server.address}/v1/responses/{made['id']}?wait=25"))
        )
        sent = threading.Event()
        client.event_hooks["request"].append(lambda request: sent.set())
        poll.start()
        sent.wait()
        server.stop()  # well before the long poll would end by itself
        poll.join()
    assert server.process.returncode == 0
    assert polls[0].json()["status"] == "queued"
    log = server.log.read_text()
    assert CANARY not in log
    assert key not in log
    assert "Traceback" not in log
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
    assert any(line["event"] == "listening" for line in lines)
