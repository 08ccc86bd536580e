"""The few statements that every request runs, compiled once and run by the driver itself.

SQLAlchemy takes longer with one of them than PostgreSQL does; what they say is still written with it.
"""

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.sql import quote
from sqlalchemy import Connection, Select
from sqlalchemy.dialects.postgresql.psycopg import dialect


class Statement:
    """A statement whose named parameters are given each time; the others become part of its text."""

    def __init__(self, statement: Select[Any], *names: str) -> None:
        compiled = statement.compile(dialect=dialect())  # type: ignore[no-untyped-call]
        given = {
            name: f"%({name})s" if name in names else quote(value) for name, value in compiled.params.items()
        }
        self._text = str(compiled) % given

    def rows(self, connection: psycopg.Connection, **values: Any) -> list[tuple[Any, ...]]:
        """What it finds. Objects are to be passed as JSON, and arrays as `array` writes them: all as text."""
        return connection.execute(self._text, values).fetchall()


def driver_of(connection: Connection) -> psycopg.Connection:
    """The driver's connection under one of SQLAlchemy's, in the same transaction."""
    lent = connection.connection.driver_connection
    assert isinstance(lent, psycopg.Connection)
    return lent


def array(values: Iterable[object]) -> str:
    """A PostgreSQL array as text; the driver takes ten times as long to write a list."""
    return f"{{{','.join(_quoted(str(value)) for value in values)}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
