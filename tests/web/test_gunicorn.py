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
from web import malformed

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

    def connect(self) -> socket.socket:
        """A connection of its own."""
        host, port = self.address.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def raw(self, sent: bytes) -> str:
        """All that comes back until the server closes the connection."""
        with self.connect() as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answer:
                return answer.read().decode()

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


HOST = b"Host: localhost\r\n"
POST = b"POST /v1/responses HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NO_REQUESTS: dict[str, tuple[bytes, int, str]] = {
    "long URL": (b"GET /v1/models?a=%s HTTP/1.1\r\n%s\r\n" % (b"a" * 9000, HOST), 414, "url_too_long"),
    "long header": (b"GET / HTTP/1.1\r\nX-A: %s\r\n\r\n" % (b"a" * 17_000), 431, "headers_too_large"),
    "many headers": (b"GET / HTTP/1.1\r\n%s\r\n" % (b"X-A: 1\r\n" * 200), 431, "headers_too_large"),
    "no HTTP": (b"hello\r\n\r\n", 400, "malformed_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed_request"),
    "HTTP/3": (b"GET / HTTP/3.0\r\n%s\r\n" % HOST, 400, "malformed_request"),
    "header without a name": (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400, "malformed_request"),
    "space in a name": (b"GET / HTTP/1.1\r\nX A: x\r\n\r\n", 400, "malformed_request"),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "malformed_request"),
    "length and chunks": (POST + b"Content-Length: 5\r\n%s\r\n0\r\n\r\n" % CHUNKED, 400, "malformed_request"),
    "folded header": (b"GET / HTTP/1.1\r\nX-A: a\r\n b\r\n\r\n", 400, "malformed_request"),
    "an expectation": (b"GET / HTTP/1.1\r\nExpect: the best\r\n\r\n", 417, "unsupported_expectation"),
    "a coding": (POST + b"Transfer-Encoding: zip\r\n\r\n", 501, "unsupported_transfer_encoding"),
    "bad chunk": (POST + b"AUTH%s\r\nxyz\r\nhello\r\n" % CHUNKED, 400, "malformed_request"),
    "bad chunk without a key": (POST + b"%s\r\nxyz\r\nhello\r\n" % CHUNKED, 401, "missing_api_key"),
}


def test_what_is_no_request_gets_the_error_object_too(server: Server, key: str) -> None:
    for name, (sent, status, code) in NO_REQUESTS.items():
        sent = sent.replace(b"AUTH", f"Authorization: Bearer {key}\r\n".encode())
        head, _, body = server.raw(sent).partition("\r\n\r\n")
        assert head.split(" ")[1] == str(status), (name, head, body)
        assert "content-type: application/json" in head.lower(), name
        assert "x-request-id: req_" in head, name
        error = json.loads(body)["error"]  # and nothing after it
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, code), name
    log = server.log.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert key not in log
    assert "Traceback" not in log
    found = [line for line in lines if line["event"] == "this was no request"]
    assert len(found) == len(NO_REQUESTS) - 2  # the chunks of the last two came to the application
    assert all(line["request_id"].startswith("req_") for line in found)


def test_a_crash_outside_the_application_shows_no_trace() -> None:
    server_end, client_end = socket.socketpair()
    with server_end, client_end:
        malformed.answer(server_end, ZeroDivisionError("by zero"))
        head, _, body = client_end.recv(10_000).decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 500 ")
    assert json.loads(body)["error"]["type"] == "server_error"
    assert "by zero" not in body


def test_a_long_url_and_a_long_header_are_taken(server: Server, key: str) -> None:
    auth = {"Authorization": f"Bearer {key}"}
    answer = httpx.get(f"{server.address}/v1/models/{'a' * 8000}", headers=auth)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    answer = httpx.get(f"{server.address}/v1/models", headers={**auth, "X-A": "a" * 16_000})
    assert answer.status_code == 200


def test_it_serves_stops_in_order_and_keeps_secrets(
    server: Server, settings: Settings, offered: Database, key: str
) -> None:
    wait_for((embedded.run_folder(settings.var_dir) / "gunicorn.ctl").exists)
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
