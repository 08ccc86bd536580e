"""Clients that go away, seen on their sockets and by the server as it is really run."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from jobs.database import Database
from jobs.settings import Settings
from jobs.tables import jobs
from tests.conftest import wait_for
from tests.web.conftest import Caller
from tests.web.test_gunicorn import Server
from web import connection
from web.connection import Connection


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_client_that_waits_or_sends_on_is_there(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert not Connection(ours).gone()
    theirs.sendall(b"GET /next")
    assert not Connection(ours).gone()
    ours.settimeout(5)
    assert ours.recv(100) == b"GET /next"  # it was looked at, not read
    assert ours.gettimeout() == 5


def test_a_client_that_closed_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    assert Connection(ours).gone()
    ours.close()
    assert Connection(ours).gone()


def test_a_client_that_closed_behind_bytes_that_nobody_read_is_gone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.sendall(b"\r\n")
    theirs.close()
    assert Connection(ours).gone()


def test_without_a_socket_nobody_is_gone(app: Flask) -> None:
    with app.test_request_context("/"):
        assert not connection.gone()


@pytest.fixture
def server(settings: Settings, offered: Database, tmp_path: Path) -> Iterator[Server]:
    """A running one."""
    server = Server(settings.var_dir, tmp_path / "log")
    wait_for(server.answers)
    yield server
    server.stop()


def states(database: Database) -> list[str]:
    with database.transaction() as connection:
        return list(connection.execute(select(jobs.c.state)).scalars())


@pytest.mark.parametrize(("path", "field"), [("/v1/responses", "input"), ("/v1/completions", "prompt")])
def test_a_client_that_leaves_a_synchronous_call_cancels_its_job(
    server: Server, offered: Database, key: str, path: str, field: str
) -> None:
    body = json.dumps({"model": "starter", field: "x"}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
    )
    with server.connect() as client:
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        wait_for(lambda: states(offered) == ["queued"])
    wait_for(lambda: "queued" not in states(offered), seconds=3)
    assert "Traceback" not in server.log.read_text()


def test_a_kept_connection_holds_nobody_up_at_the_end(server: Server) -> None:
    client = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=10)
    client.request("GET", "/healthz")
    assert client.getresponse().read()
    server.stop()
    assert client.sock.recv(1) == b""
    client.close()
    assert server.process.returncode == 0
    assert "graceful timeout" not in server.log.read_text()


def test_an_unread_body_does_not_become_the_next_request(server: Server) -> None:
    client = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=10)
    client.request("POST", "/v1/responses", b"x" * 300_000)
    answer = client.getresponse()
    assert (answer.status, answer.read()[:9]) == (401, b'{"error":')
    kept = client.sock
    client.request("GET", "/healthz")
    assert client.getresponse().status == 200
    assert client.sock is kept
    client.close()


def test_an_answer_says_how_long_it_took(caller: Caller) -> None:
    made = caller.post("/v1/responses", model="starter", input="x", background=True)
    assert 0 <= int(made.headers["openai-processing-ms"]) < 10_000


def test_a_post_without_a_body_may_call_it_json(caller: Caller) -> None:
    made = caller.post("/v1/responses", model="starter", input="x", background=True).get_json()
    answer = caller.send(
        "POST", f"/v1/responses/{made['id']}/cancel", data=b"", Content_Type="application/json"
    )
    assert (answer.status_code, answer.get_json()["status"]) == (200, "cancelled")


def test_a_long_poll_ends_when_its_client_has_gone(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    made = caller.post("/v1/responses", model="starter", input="x", background=True).get_json()
    monkeypatch.setattr(Connection, "gone", lambda self: True)
    start = time.monotonic()
    caller.get(f"/v1/responses/{made['id']}?wait=20")  # or it would hold one of the places
    assert time.monotonic() - start < 5
