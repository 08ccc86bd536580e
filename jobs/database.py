"""How a process reaches PostgreSQL, and the only place that knows when it cannot."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from jobs.errors import DatabaseUnavailable

# Bounds for a server that does not answer; without them a request would hang for minutes.
_CONNECT = {
    "connect_timeout": 3,  # seconds
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
    "prepare_threshold": 2,  # the same few statements again and again
}


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise DatabaseUnavailable(str(error).splitlines()[0]) from error


def _refuse_closed(connection: psycopg.Connection, _record: object, _proxy: object) -> None:
    """The server may have restarted since: its farewell lies in the socket, and costs no round trip to see.

    Raises:
        InvalidatePoolError: it has; SQLAlchemy then connects anew.
    """
    try:
        connection.pgconn.consume_input()  # its last words
        connection.pgconn.consume_input()  # and that none will follow
    except psycopg.OperationalError as error:
        raise InvalidatePoolError from error


class Database:
    """A pool of connections; made after a fork, never before."""

    def __init__(self, url: str, connections: int = 5, statement_seconds: float = 15) -> None:
        self.engine = create_engine(
            url,
            hide_parameters=True,  # they hold prompts, and errors are logged
            pool_size=connections,
            max_overflow=0,
            pool_timeout=5,
            pool_use_lifo=True,
            connect_args={**_CONNECT, "options": f"-c statement_timeout={int(statement_seconds * 1000)}"},
        )
        event.listen(self.engine, "checkout", _refuse_closed)
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit at the end of the block, roll back if it raises.

        Raises:
            DatabaseUnavailable: PostgreSQL could not be reached, or did not answer in time.
        """
        with _reached(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Each statement for itself: one round trip where a transaction takes three.

        Raises:
            DatabaseUnavailable: as for `transaction`.
        """
        with _reached(), self._reading.connect() as connection:
            yield connection

    def wait_until_up(self, seconds: float, worth_waiting: Callable[[], bool] = lambda: True) -> None:
        """Return as soon as PostgreSQL answers.

        Raises:
            DatabaseUnavailable: it did not within `seconds`, or waiting was no longer worth it.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self.transaction() as connection:
                    connection.execute(text("SELECT 1"))
                return
            except DatabaseUnavailable:
                if time.monotonic() > deadline or not worth_waiting():
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """Give every connection back to the server."""
        self.engine.dispose()
