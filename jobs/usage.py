"""What was done with each key, by day: the only module that writes `usage`, which outlives the jobs."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import BigInteger, Connection, Date, Float, Select, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert

from jobs.tables import api_keys, owners, usage

_SUMS = ("jobs", "input_tokens", "output_tokens", "worker_seconds")
_KINDS = {
    "api_key_id": BigInteger,
    "day": Date,
    "jobs": BigInteger,
    "input_tokens": BigInteger,
    "output_tokens": BigInteger,
    "worker_seconds": Float,
}


@dataclass(frozen=True)
class Spent:
    """What one job cost that has ended with a worker."""

    api_key_id: int
    day: date  # of its end, in UTC
    input_tokens: int
    output_tokens: int
    worker_seconds: float  # from the start of its last attempt to its end, however many shared the batch


@dataclass(frozen=True)
class Used:
    """What was done with one key on one day."""

    day: date
    prefix: str
    owner: str
    jobs: int
    input_tokens: int
    output_tokens: int
    worker_seconds: float


def add(connection: Connection, spent: Iterable[Spent]) -> None:
    """Add what these jobs cost, in one statement with its rows in one order, or two groups could deadlock."""
    sums: dict[tuple[int, date], list[float]] = {}
    for one in spent:
        total = sums.setdefault((one.api_key_id, one.day), [0, 0, 0, 0.0])
        cost = (1, one.input_tokens, one.output_tokens, one.worker_seconds)
        total[:] = [before + more for before, more in zip(total, cost, strict=True)]
    if not sums:
        return
    rows = sorted((*name, *total) for name, total in sums.items())
    arrays: list[Any] = [
        bindparam(None, [row[index] for row in rows], type_=ARRAY(kind))
        for index, kind in enumerate(_KINDS.values())
    ]
    columns: list[Any] = [column(name, kind) for name, kind in _KINDS.items()]
    given = func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
    ordered = (  # a job may outlive its key: then there is nobody to tell
        select(given)
        .join(api_keys, api_keys.c.id == given.c.api_key_id)
        .order_by(given.c.api_key_id, given.c.day)
    )
    new = insert(usage).from_select(list(_KINDS), ordered)
    both = {name: usage.c[name] + new.excluded[name] for name in _SUMS}
    connection.execute(new.on_conflict_do_update(index_elements=["api_key_id", "day"], set_=both))


def read(
    connection: Connection, start: date, end: date, limit: int, owner_id: int | None = None
) -> tuple[list[Used], bool]:
    """Up to `limit` days of keys from `start` to `end`, both included, the newest first, and whether
    there are more; of one owner's keys, or of everybody's.
    """
    query = _read().where(usage.c.day.between(start, end))
    if owner_id is not None:
        query = query.where(api_keys.c.owner_id == owner_id)
    query = query.order_by(usage.c.day.desc(), usage.c.api_key_id).limit(limit + 1)
    rows = connection.execute(query).all()
    return [Used(**row._mapping) for row in rows[:limit]], len(rows) > limit


def _read() -> Select[Any]:
    sums = [usage.c[name] for name in _SUMS]
    shown = select(usage.c.day, api_keys.c.prefix, owners.c.name.label("owner"), *sums)
    return shown.join(api_keys, usage.c.api_key_id == api_keys.c.id).join(owners)
