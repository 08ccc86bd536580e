"""The pieces of SQL that a row's first state and its later moves have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnClause, ColumnElement, FromClause, bindparam, column, func, insert, select
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.tables import job_events


def table_of(values: Mapping[str, tuple[Any, Sequence[Any]]]) -> FromClause:
    """Columns of values as a table of a statement; of each its type and its rows."""
    arrays = [bindparam(None, rows, type_=ARRAY(kind)) for kind, rows in values.values()]
    columns: list[ColumnClause[Any]] = [column(name, kind) for name, (kind, _) in values.items()]
    return func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def log_of(moved: FromClause, code: ColumnElement[Any]) -> Any:
    entries = select(moved.c.id, moved.c.attempt, moved.c.state, code, moved.c.worker)
    return (
        insert(job_events)
        .from_select(["job_id", "attempt", "state", "code", "worker"], entries)
        .cte("logged")
    )
