"""A webhook's target for tests: a real server that behaves as badly as it is told."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """What arrived, and how the next ones are answered."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.heard: list[tuple[str, dict[str, str], str]] = []  # path, headers, body
        self.statuses: list[int] = []  # of the next answers; then 200
        self.manner = "well"

    def paths(self) -> list[str]:
        """Where it was asked."""
        return [path for path, _, _ in self.heard]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serve on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            receiver.heard.append((self.path, dict(self.headers), body))
            try:
                _answer(self, receiver)
            except OSError:  # the sender has had enough
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    receiver = Receiver(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, receiver: Receiver) -> None:
    if receiver.manner == "drips":  # a byte now and then, for ever
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 1000:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.1)
    if receiver.manner == "hangs":
        handler.connection.recv(1)  # until the sender goes
        return
    if receiver.manner == "cuts":
        handler.connection.shutdown(socket.SHUT_RDWR)
        return
    status = receiver.statuses.pop(0) if receiver.statuses else 200
    handler.send_response(status)
    if status in (301, 307):
        handler.send_header("Location", f"{receiver.url}/elsewhere")
    handler.end_headers()
    if receiver.manner == "floods":
        for _ in range(1000):  # a gigabyte
            handler.wfile.write(b"x" * 1_000_000)
