"""How psycopg waits where threads are greenlets: through the event loop, and only for what is not there yet.

Its own way makes a watcher, an event and a timeout for each look; a statement takes two looks.
"""

import select
from typing import Any, TypeVar, cast

import gevent  # type: ignore[import-untyped]
import psycopg
from gevent import monkey
from psycopg import waiting
from psycopg.abc import PQGen

_poll = monkey.get_original("select", "poll")  # gevent's own would switch to other greenlets
_READ, _WRITE = waiting.WAIT_R, waiting.WAIT_W  # psycopg's numbers and those of gevent's loop are the same

RV = TypeVar("RV")


class Connection(psycopg.Connection[Any]):
    """A connection that is waited for by one greenlet while others go on."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """What `gen` returns in the end.

        Keepalives and `statement_timeout` bound what the server can take, so nobody looks in between.
        """
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(_ready(self.pgconn.socket, wanted))
        except StopIteration as end:
            return cast(RV, end.value)


def _ready(descriptor: int, wanted: int) -> int:
    """Which of what is waited for has come. A lost connection counts as something to read, which says so."""
    looked = _poll()
    looked.register(descriptor, (wanted & _READ and select.POLLIN) | (wanted & _WRITE and select.POLLOUT))
    while not (found := looked.poll(0)):
        hub = gevent.get_hub()
        watcher = hub.loop.io(descriptor, wanted)
        try:
            hub.wait(watcher)
        finally:
            watcher.close()
    ((_, events),) = found
    return (events & ~select.POLLOUT and _READ) | (events & select.POLLOUT and _WRITE)
