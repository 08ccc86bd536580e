"""One HTTP request on a connection of its own, so that a broken one breaks nothing else."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close with a reset, not with a goodbye


class Broken(Exception):
    """The connection ended before the whole answer was there; `read` is what came of its body."""

    def __init__(self, said: str, read: bytes = b"") -> None:
        super().__init__(said)
        self.read = read


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body. Raises ValueError."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Request:
    """What is sent, each time the same bytes."""

    method: str
    path: str
    key: str
    body: bytes = b""
    kind: str = "application/json"
    name: str = ""  # its Idempotency-Key

    @property
    def bytes(self) -> bytes:
        """As it goes over the wire."""
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {self.key}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(self.body)}",
            "Connection: close",
            *([f"Idempotency-Key: {self.name}"] if self.name else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


async def send(port: int, request: Request, seconds: float, cut: bool = False) -> Answer:
    """The answer. `cut`: the connection is reset as soon as the request was sent.

    Raises:
        Broken: there is none, or not all of it.
    """
    read = bytearray()
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request.bytes)
                await writer.drain()
                if cut:
                    _reset(writer)
                    raise Broken("cut on purpose")
                while block := await reader.read(65_536):
                    read += block
            finally:
                with contextlib.suppress(OSError):
                    writer.close()
    except (OSError, TimeoutError) as error:
        raise Broken(f"{type(error).__name__}: {error}", _parsed(bytes(read))[2]) from None
    status, headers, body, whole = _parsed(bytes(read))
    if not whole:
        raise Broken(f"{len(read)} bytes and then nothing", body)
    return Answer(status, headers, body)


def events(body: bytes) -> list[Any]:
    """The JSON of every whole server-sent event."""
    frames = body.split(b"\n\n")[:-1]
    lines = [line for frame in frames for line in frame.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _parsed(read: bytes) -> tuple[int, dict[str, str], bytes, bool]:
    """Status, headers, body, and whether all of it is there."""
    head, found, body = read.partition(b"\r\n\r\n")
    if not found:
        return 0, {}, b"", False
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    if headers.get("transfer-encoding") == "chunked":
        body, whole = _joined(body)
    else:
        whole = len(body) == int(headers.get("content-length", len(body)))
    return int(first.split()[1]), headers, body, whole


def _joined(chunked: bytes) -> tuple[bytes, bool]:
    """The body that came in chunks, and whether the last one is there."""
    body = bytearray()
    while True:
        size, found, chunked = chunked.partition(b"\r\n")
        if not found:
            return bytes(body), False
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return bytes(body), True
        body += chunked[:length]
        chunked = chunked[length + 2 :]
