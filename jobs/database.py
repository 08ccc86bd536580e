"""How a process reaches PostgreSQL, and the only place that knows when it cannot."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
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


_LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,  # of `idle_seconds`; to psycopg it is a server's defect
)


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, _LOST):
            raise
        raise DatabaseUnavailable(str(error).splitlines()[0]) from error
    except (PoolTimeout, *_LOST) as error:
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

    def __init__(
        self,
        url: str,
        connections: int = 5,
        statement_seconds: float = 15,
        kind: type[psycopg.Connection[Any]] = psycopg.Connection,
        idle_seconds: float = 0,
    ) -> None:
        """`kind` says how a connection waits.

        `idle_seconds`: after so long without a statement the server ends a transaction, and with it the locks
        of a process that stands still or cannot be reached any more; 0: never.
        """
        options = {
            "statement_timeout": statement_seconds,
            "idle_in_transaction_session_timeout": idle_seconds,
        }
        common: dict[str, Any] = {
            "hide_parameters": True,  # they hold prompts, and errors are logged
            "pool_size": connections,
            "max_overflow": 0,
            "pool_timeout": 5,
            "pool_use_lifo": True,
            "connect_args": {
                **_CONNECT,
                "options": " ".join(f"-c {name}={int(value * 1000)}" for name, value in options.items()),
            },
        }
        self.engine = create_engine(url, **common)
        # connections of their own: to change the mode of one and back costs more than a statement
        self._plain = create_engine(url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, **common)
        for engine in (self.engine, self._plain):
            event.listen(engine, "checkout", _refuse_closed)
            event.listen(engine, "do_connect", lambda _dialect, _record, _, given: kind.connect(**given))

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
        with _reached(), self._plain.connect() as connection:
            yield connection

    @contextmanager
    def driver(self) -> Iterator[psycopg.Connection]:
        """As `reading`, without SQLAlchemy: for `statements`.

        Raises:
            DatabaseUnavailable: as for `transaction`.
        """
        with _reached():
            lent = self._plain.raw_connection()
            try:
                yield cast(psycopg.Connection, lent.driver_connection)
            except BaseException:
                lent.invalidate()  # it may stand in the middle of a statement or a transaction
                raise
            finally:
                lent.close()

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
        self._plain.dispose()
