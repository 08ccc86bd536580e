"""Uploads and downloads through the server as it is really run: little memory, and nothing half-written."""

import hashlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from jobs.database import Database
from jobs.settings import Settings
from jobs.tables import files
from tests.conftest import wait_for
from tests.jobs.test_lines import Peak
from tests.web.test_gunicorn import Server

BLOCK = bytes(range(256)) * 256
KIND = "multipart/form-data; boundary=b"
HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'
)
TAIL = b"\r\n--b--\r\n"


@pytest.fixture
def server(
    settings: Settings, offered: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A running one that takes files of up to 64 MB."""
    monkeypatch.setenv("MAX_FILE_MB", "64")
    server = Server(settings.var_dir, tmp_path / "log")
    wait_for(server.answers)
    yield server
    server.stop()


@pytest.fixture
def client(server: Server, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=server.address, headers={"Authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        yield client


def form(blocks: int) -> Iterator[bytes]:
    yield HEAD
    for _ in range(blocks):
        yield BLOCK
    yield TAIL


def upload(client: httpx.Client, blocks: int, length: int | None = None) -> httpx.Response:
    """Upload so many blocks; without a length, in chunks."""
    said = {} if length is None else {"Content-Length": str(length)}
    return client.post("/v1/files", content=form(blocks), headers={"Content-Type": KIND, **said})


def test_a_large_file_passes_through_little_memory(server: Server, client: httpx.Client) -> None:
    worker = psutil.Process(server.process.pid).children()[0]
    assert upload(client, 10).is_success  # whatever is loaded once
    whole = hashlib.sha256(BLOCK * 900).hexdigest()
    for length in (None, len(HEAD) + 900 * len(BLOCK) + len(TAIL)):
        with Peak(worker) as peak:
            made = upload(client, 900, length).json()
            got = hashlib.sha256()
            with client.stream("GET", f"/v1/files/{made['id']}/content") as answer:
                for block in answer.iter_bytes():
                    got.update(block)
        assert (made["bytes"], got.hexdigest()) == (900 * len(BLOCK), whole)
        assert peak.megabytes < 20, "the file has 59"
    url = f"/v1/files/{made['id']}/content"
    last = client.get(url, headers={"Range": f"bytes=-{len(BLOCK)}"})
    assert (last.status_code, last.content) == (206, BLOCK)


def test_an_upload_that_is_too_large_or_breaks_off_leaves_nothing(
    server: Server, client: httpx.Client, key: str, settings: Settings, offered: Database
) -> None:
    for length in (None, len(HEAD) + 1000 * len(BLOCK) + len(TAIL)):
        answer = upload(client, 1000, length)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    start = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: {KIND}\r\n"
    ).encode()
    whole = HEAD + BLOCK + TAIL
    lies = {
        "a length beyond the limit": (b"Content-Length: 70000000\r\n\r\n", b"", "413"),
        "a length that is too short": (b"Content-Length: %d\r\n\r\n" % (len(whole) - 20), whole, "400"),
        "a length that is too long": (b"Content-Length: %d\r\n\r\n" % (len(whole) * 20), HEAD + BLOCK, "400"),
        "chunks that end early": (b"Transfer-Encoding: chunked\r\n\r\n", b"FFFFFF\r\n" + HEAD + BLOCK, "400"),
        "chunks that are none": (b"Transfer-Encoding: chunked\r\n\r\n", b"10\r\n" + HEAD, "400"),
    }
    for name, (head, body, status) in lies.items():
        assert server.raw(start + head + body).split(" ")[1] == status, name
    with server.connect() as gone:
        gone.sendall(start + b"Content-Length: 60000000\r\n\r\n" + HEAD + BLOCK * 100)
        wait_for(lambda: written(settings))
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
    wait_for(lambda: not written(settings))
    with offered.transaction() as connection:
        assert connection.execute(select(func.count()).select_from(files)).scalar_one() == 0
    assert client.get("/healthz").is_success
    assert "Traceback" not in server.log.read_text()


def written(settings: Settings) -> list[Any]:
    """What is being uploaded."""
    return list((settings.var_dir / "artifacts" / "aside").iterdir())
