"""A load generator that costs the server little: one thread, raw sockets, answers counted and not parsed."""

import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """A request on the wire, with what of the official client's headers makes the server do more."""
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "x-stainless-retry-count: 0",  # the official client's: without it no retry could be told
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Client:
    """One keep-alive connection with at most one request under way."""

    port: int
    received: bytes = b""
    began: float = 0.0
    connection: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def send(self, data: bytes) -> None:
        self.received, self.began = b"", time.perf_counter()
        self.connection.sendall(data)

    def receive(self) -> bytes | None:
        """The whole answer, or None while some of it is missing.

        Raises:
            RuntimeError: it is not 200.
        """
        some = self.connection.recv(65_536)
        self.received += some
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank and some:
            return None
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"not answered: {self.received[:500]!r}")
        length = _LENGTH.search(head)
        return body if length and len(body) >= int(length[1]) else None


def rate(
    port: int, make: Callable[[int], bytes], count: int, concurrency: int = 16
) -> tuple[float, list[bytes]]:
    """Answers per second to `make(0)` ... `make(count - 1)`, and the answers as they came."""
    with selectors.DefaultSelector() as selector:
        clients = [Client(port) for _ in range(concurrency)]
        for client in clients:
            selector.register(client.connection, selectors.EVENT_READ, client)
        answers: list[bytes] = []
        began, sent = time.perf_counter(), 0
        for client in clients:
            client.send(make(sent))
            sent += 1
        while len(answers) < count:
            for chosen, _ in selector.select(60):
                answer = chosen.data.receive()
                if answer is None:
                    continue
                answers.append(answer)
                if sent < count:
                    chosen.data.send(make(sent))
                    sent += 1
        seconds = time.perf_counter() - began
        for client in clients:
            client.connection.close()
    return count / seconds, answers
