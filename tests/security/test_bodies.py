"""Bodies that lie about their length, have no end, or unfold to gigabytes: refused, and no memory is lost."""

import gzip
import json
import re
import socket
import zlib
from contextlib import suppress

import httpx
import psutil
from flask import Flask

from jobs.database import Database
from tests.jobs.test_lines import Peak
from tests.web.conftest import Caller, rows
from tests.web.test_gunicorn import Server
from tests.web.things import known
from web.operations import OPERATIONS

ROOM = 30  # megabytes that a request of at most 4 MB may take for a while
HEAD = (
    "POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n"
)


def process(server: Server) -> psutil.Process:
    """The one that serves, warm."""
    return psutil.Process(server.process.pid).children()[0]


def pour(server: Server, head: str, block: bytes, most: int) -> tuple[int, bytes]:
    """Send blocks until the server hangs up or answers; how many bytes it took, and its answer."""
    sent, answer = 0, b""
    with server.connect() as client:
        client.sendall(head.encode())
        client.settimeout(0.001)
        while sent < most and not answer:
            with suppress(TimeoutError):
                answer = client.recv(65_536)
            with suppress(TimeoutError):
                sent += client.send(block)
    return sent, answer


CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
ENDLESS: dict[str, tuple[str, bytes]] = {
    "chunks": (CHUNKED, b"10000\r\n" + b" " * 65_536 + b"\r\n"),
    "small chunks": (CHUNKED, (b"40\r\n" + b" " * 64 + b"\r\n") * 1000),
    "one chunk": (f"{CHUNKED}FFFFFFFFFFFF\r\n", b" " * 65_536),
    "a length of 100 GB": ("Content-Length: 99999999999\r\n\r\n", b" " * 65_536),
}


def test_a_body_without_an_end_is_cut_off(server: Server, key: str) -> None:
    httpx.get(f"{server.address}/v1/models", headers={"Authorization": f"Bearer {key}"})
    for name, (said, block) in ENDLESS.items():
        with Peak(process(server)) as peak:
            sent, answer = pour(server, HEAD.format(key) + said, block, 200_000_000)
        assert sent < 40_000_000, f"{name}: the server goes on reading"
        assert answer.split(b" ")[1] == b"413", (name, answer)
        assert peak.megabytes < ROOM, name
        assert httpx.get(f"{server.address}/healthz").is_success


LENGTHS = ["-1", "+5", "0x10", "5, 5", "5 5", "1e3", "9" * 40, "٥", "5_0", ""]
TRANSFERS = ["gzip, chunked", "gzip", "chunked, gzip", "deflate", "chunked, chunked", "xchunked"]


def test_a_length_or_a_coding_that_is_none_is_refused(server: Server, key: str) -> None:
    heads = [f"Content-Length: {length}" for length in LENGTHS]
    for head in [*heads, *(f"Transfer-Encoding: {coding}" for coding in TRANSFERS)]:
        status = server.raw(f"{HEAD.format(key)}{head}\r\n\r\n".encode()).split(" ")[1]
        assert status in ("400", "413", "501"), (head, status)


def test_a_length_that_lies_makes_no_job_and_no_second_request(
    server: Server, key: str, offered: Database
) -> None:
    body = json.dumps({"model": "starter", "input": "d", "background": True})
    smuggled = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    for length, rest in ((len(body) - 1, ""), (len(body) + 4000, ""), (5, body), (3, smuggled)):
        answer = server.raw(f"{HEAD.format(key)}Content-Length: {length}\r\n\r\n{body}{rest}".encode())
        assert answer.split(" ")[1] == "400", answer
        assert "200 OK" not in answer
    for _ in range(20):
        with server.connect() as client:
            client.sendall(f'{HEAD.format(key)}Content-Length: 500\r\n\r\n{{"model": "starter", '.encode())
            client.shutdown(socket.SHUT_RDWR)
    assert httpx.get(f"{server.address}/healthz").is_success
    assert rows(offered) == 0
    assert "Traceback" not in server.log.read_text()


BOMB = gzip.compress(b'{"input": "' + b"a" * 10_000_000 + b'"}')
CODINGS = {
    "gzip": BOMB,
    "GZIP": BOMB,
    "x-gzip": BOMB,
    "deflate": zlib.compress(b"a" * 10_000_000),
    "br": b"\x1b\xff",
    "zstd": b"\x28\xb5\x2f\xfd",
    "gzip, gzip": gzip.compress(BOMB),
    "identity, gzip": BOMB,
    "compress": b"\x1f\x9d",
}


def test_no_route_unfolds_a_body(app: Flask, caller: Caller, offered: Database) -> None:
    ids = known(caller)
    before = rows(offered)
    takers = [one for one in app.url_map.iter_rules() if OPERATIONS.get(one.endpoint, None)]
    bodies = [one for one in takers if OPERATIONS[one.endpoint].body is not None]
    assert len(bodies) >= 11
    for rule in bodies:
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: ids[found[1]], rule.rule)
        is_form = rule.endpoint == "files.create"
        kind = "multipart/form-data; boundary=x" if is_form else "application/json"
        for coding, sent in CODINGS.items():
            answer = caller.send("POST", path, data=sent, Content_Type=kind, Content_Encoding=coding)
            assert answer.status_code == 415, (path, coding, answer.text)
    assert rows(offered) == before
