"""gunicorn's worker with greenlets, with our errors, and quick to stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from web import malformed

_DRAIN_SECONDS = 5.0  # for the rest of a body that nobody wanted
_LAST_CHANCE_SECONDS = 0.2  # a request may be on its way when the process is told to stop


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn says nothing of its types
    """One greenlet for each connection."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._idle: dict[gevent.Greenlet, gevent.Timeout] = {}

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Bound the wait for a whole next request; who sends none within it is let go."""
        with gevent.Timeout(self.cfg.keepalive, False) as timeout:
            greenlet = gevent.getcurrent()
            self._idle[greenlet] = timeout
            try:
                yield
            finally:
                del self._idle[greenlet]

    def let_idle_go(self) -> None:
        """Close the connections that wait for a next request: gunicorn would wait for them at its end.

        A signal handler may call it.
        """
        gevent.spawn(self._let_idle_go)

    def _let_idle_go(self) -> None:
        while True:
            before = dict(self._idle)
            gevent.sleep(_LAST_CHANCE_SECONDS)
            for greenlet, timeout in before.items():
                if self._idle.get(greenlet) is timeout:
                    greenlet.kill(timeout, block=False)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request and read what is left of its body; where that fails, the connection ends.

        Raises:
            StopIteration: it is to be closed.
        """
        super().handle_request(listener_name, req, sock, addr)
        if getattr(req.body.reader, "length", None) == 0:
            return  # it was read to its end
        done = False
        with gevent.Timeout(_DRAIN_SECONDS, False):
            try:
                while req.body.read(65_536):
                    pass
                done = True
            except malformed.NOT_HTTP:
                pass  # its request has an answer already
        if not done:
            raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer in place of the application."""
        if isinstance(exc, Exception):
            malformed.answer(client, exc)
