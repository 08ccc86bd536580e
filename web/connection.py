"""Whether the client of a request still listens, seen on its socket without reading from it."""

import socket
from contextlib import suppress

from flask import request


class Connection:
    """The connection on which one request came."""

    def __init__(self, client: socket.socket | None) -> None:
        self._client = client

    def gone(self) -> bool:
        """Whether the client has closed its end; bytes of a next request mean that it has not.

        One system call and no switch to other greenlets, so it may be asked for thousands at once.
        """
        if self._client is None:
            return False
        try:
            before = self._client.gettimeout()
            self._client.settimeout(0)
            try:
                return not self._client.recv(1, socket.MSG_PEEK)
            finally:
                with suppress(OSError):
                    self._client.settimeout(before)
        except BlockingIOError:
            return False  # nothing to read: it waits
        except OSError:
            return True


def current() -> Connection:
    """The connection of the current request; keep it where the request's context ends before its stream."""
    return Connection(request.environ.get("gunicorn.socket"))


def gone() -> bool:
    """Whether the client of the current request has gone; never without gunicorn, as in tests."""
    return current().gone()
