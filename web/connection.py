"""Whether the client of a request still listens, seen on its socket without reading from it."""

import select
import socket

from flask import request
from gevent import monkey  # type: ignore[import-untyped]

_poll = monkey.get_original("select", "poll")  # gevent's own would switch to other greenlets


class Connection:
    """The connection on which one request came."""

    def __init__(self, client: socket.socket | None) -> None:
        self._client = client

    def gone(self) -> bool:
        """Whether the client has closed its end, also where bytes that nobody has read came before that.

        One system call and no switch to other greenlets, so it may be asked for thousands at once.
        """
        if self._client is None:
            return False
        descriptor = self._client.fileno()
        if descriptor < 0:
            return True  # we have closed it
        ends = _poll()
        ends.register(descriptor, select.POLLRDHUP)  # errors and hang-ups are told always
        return bool(ends.poll(0))


def current() -> Connection:
    """The connection of the current request; keep it where the request's context ends before its stream."""
    return Connection(request.environ.get("gunicorn.socket"))


def gone() -> bool:
    """Whether the client of the current request has gone; never without gunicorn, as in tests."""
    return current().gone()
