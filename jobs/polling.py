"""Jobs as those who poll ask for them: of many owners at once, and again and again."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import BigInteger, ColumnElement, Text, and_, bindparam, column, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.records import FIELDS, JobRecord, is_mine, placed, reading
from jobs.statements import Statement, array
from jobs.states import State
from jobs.tables import jobs

Asked = tuple[int, str, str]
"""Owner, kind and id of a job."""

_VERSION = literal_column("jobs.xmin", Text)  # the transaction that wrote the row as it is


def find_all(connection: psycopg.Connection, asked: Sequence[Asked]) -> list[JobRecord | None]:
    """As `records.find`, of several in one statement, and each with its version."""
    rows = _finding().rows(connection, **_given(asked))
    records = placed(connection, [_record(row[3:]) for row in rows])
    found = {row[:3]: record for row, record in zip(rows, records, strict=True)}
    return [found.get(one) for one in asked]


def versions(connection: psycopg.Connection, asked: Sequence[Asked]) -> list[str | None]:
    """The version of each job that its owner may still see, without reading it."""
    found = {row[:3]: row[3] for row in _looking().rows(connection, **_given(asked))}
    return [found.get(one) for one in asked]


def _given(asked: Iterable[Asked]) -> dict[str, str]:
    owners, kinds, ids = zip(*set(asked), strict=True)
    return {"owners": array(owners), "kinds": array(kinds), "ids": array(ids)}


def _record(row: Sequence[Any]) -> JobRecord:
    version, *values = row
    named = dict(zip(FIELDS, values, strict=True))
    return JobRecord(**named | {"state": State(named["state"])}, version=version)


@cache
def _finding() -> Statement:
    return _of_those_asked_for(reading().selected_columns)


@cache
def _looking() -> Statement:
    return _of_those_asked_for([], jobs.c.stored)


def _of_those_asked_for(columns: Iterable[ColumnElement[Any]], *where: ColumnElement[bool]) -> Statement:
    kinds: dict[str, Any] = {"owners": BigInteger(), "kinds": Text(), "ids": Text()}
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in kinds.items()]
    table = func.unnest(*arrays).table_valued(
        *(column(name, kind) for name, kind in kinds.items()), name="asked"
    )
    asked = table.render_derived()
    mine = is_mine(asked.c.owners, asked.c.kinds, asked.c.ids)
    query = select(*asked.c, _VERSION, *columns).join(jobs, and_(*mine)).where(*where)
    return Statement(query, *kinds)
