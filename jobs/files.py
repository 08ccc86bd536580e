"""The rows of files: who has them, who needs them, and which artifacts nobody names any more."""

import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs.artifacts import ArtifactStore, Writer
from jobs.batches import is_open
from jobs.database import Database
from jobs.errors import StorageFailed
from jobs.failpoints import failpoint
from jobs.lines import Flaw
from jobs.states import FINAL
from jobs.tables import (
    batches,
    checkpoint_files,
    files,
    jobs,
    loose_artifacts,
    model_files,
    model_versions,
)

log = structlog.get_logger(__name__)

VALIDATED = ("batch", "fine-tune")
"""Purposes whose files the clerk reads before anything is made of them."""
FINETUNE = "fine_tuning.job"
"""The kind of a job that is a fine-tune."""

_BATCH_LIFE = timedelta(days=30)
_LOOSE = timedelta(hours=1)  # from an artifact's arrival to its row, at the most
_ABANDONED = timedelta(days=1)  # the longest that anybody writes at one artifact
_ROWS = 1000  # of one DELETE, so that no lock is held for long
_LOCKS = 4  # salt, apart from other users of advisory locks


@dataclass(frozen=True)
class NewFile:
    """What `create` needs to know; the bytes are in the store already (see `keep`)."""

    owner_id: int
    filename: str
    purpose: str
    bytes: int
    artifact: str
    expires_after: timedelta | None = None


@dataclass(frozen=True)
class FileRecord:
    """One row, as its owner may see it."""

    id: str
    owner_id: int
    filename: str
    purpose: str
    bytes: int
    artifact: str
    status: str  # uploaded: not validated yet; processed; error
    status_details: str | None
    errors: list[dict[str, Any]] | None  # the first of them, as `lines.Flaw.row` makes them
    lines: int | None  # of a validated file
    created_at: datetime
    expires_at: datetime | None


def keep(database: Database, writer: Writer) -> str:
    """Make what was written an artifact that is removed again if no row names it within an hour.

    Raises:
        StorageFailed: there is no room, or the store is out of reach.
        DatabaseUnavailable: nothing was kept.
    """
    announce(database, writer.name)
    kept = writer.keep()
    failpoint("after_artifact")
    return kept


def keep_file(database: Database, store: ArtifactStore, path: Path) -> str:
    """As `keep`, of a file that is there; it may be linked, so nobody may write to it any more.

    Raises:
        As `keep`, and OSError: the file cannot be read.
    """
    kept = store.put_file(path, partial(announce, database))
    failpoint("after_artifact")
    return kept


def announce(database: Database, artifact: str) -> None:
    """Say, before the bytes are there, that an artifact of this name comes: whoever prunes leaves it alone.

    Raises:
        DatabaseUnavailable: it was not said.
    """
    with database.transaction() as connection:
        loosen(connection, [artifact])


def create(connection: Connection, new: NewFile) -> FileRecord:
    """Write the row of a file. For a purpose of `VALIDATED`, ring Chore.VALIDATE after the commit."""
    life = new.expires_after or (_BATCH_LIFE if new.purpose == "batch" else None)
    made = insert(files).values(
        id=f"file-{secrets.token_hex(16)}",
        owner_id=new.owner_id,
        filename=new.filename,
        purpose=new.purpose,
        bytes=new.bytes,
        artifact=new.artifact,
        status="uploaded" if new.purpose in VALIDATED else "processed",
        expires_at=None if life is None else func.now() + life,
    )
    return _record(connection.execute(made.returning(files)).one())


def find(connection: Connection, owner_id: int, file_id: str, hold: bool = False) -> FileRecord | None:
    """The file of that id, if it is this owner's; `hold` keeps it from being deleted before the commit."""
    query = select(files).where(files.c.id == file_id, files.c.owner_id == owner_id)
    row = connection.execute(query.with_for_update(read=True) if hold else query).one_or_none()
    return None if row is None else _record(row)


def page(
    connection: Connection, owner_id: int, purpose: str | None, after: str | None, limit: int, newest: bool
) -> tuple[list[FileRecord], bool]:
    """Up to `limit` files that follow the file `after`, without their errors, and whether there are more."""
    # without their errors, of which ten thousand files could have a gigabyte
    shown = [null().label("errors") if column is files.c.errors else column for column in files.c]
    query = select(*shown).where(files.c.owner_id == owner_id)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        mark = select(files.c.seq).where(files.c.id == after, files.c.owner_id == owner_id).scalar_subquery()
        query = query.where(files.c.seq < mark if newest else files.c.seq > mark)
    order = files.c.seq.desc() if newest else files.c.seq.asc()
    rows = connection.execute(query.order_by(order).limit(limit + 1)).all()
    return [_record(row) for row in rows[:limit]], len(rows) > limit


def in_use(connection: Connection, file_id: str) -> str | None:
    """Who needs the file still: "batch 'batch_…'" or "fine-tuning job 'ftjob-…'"; None if nobody does."""
    batch = select(batches.c.id).where(batches.c.input_file_id == file_id, is_open())
    if found := connection.execute(batch.limit(1)).scalar():
        return f"batch '{found}'"
    mine = select(files.c.owner_id).where(files.c.id == file_id).scalar_subquery()
    finetune = select(jobs.c.id).where(jobs.c.owner_id == mine, _trains_on(file_id))
    if found := connection.execute(finetune.limit(1)).scalar():
        return f"fine-tuning job '{found}'"
    return None


def remove(connection: Connection, file_id: str) -> None:
    """Delete the row of a file that nobody needs; its bytes go later, if no other row names them.

    Lock the row first (`lock`), then ask `in_use`.
    """
    _forget(connection, files.c.id == file_id)


def remove_some(connection: Connection, owner_id: int, limit: int) -> int:
    """Delete up to `limit` files of an owner, needed or not; return how many."""
    some = select(files.c.id).where(files.c.owner_id == owner_id).limit(limit)
    return _forget(connection, files.c.id.in_(some.with_for_update()))


def loosen(connection: Connection, artifacts: Sequence[str]) -> None:
    """Say that there may be no row any more that names these artifacts: they are looked at after a while."""
    if artifacts:
        rows = [{"artifact": artifact} for artifact in sorted(set(artifacts))]  # locked in one order
        since = {"since": func.now()}
        marks = insert(loose_artifacts).values(rows)
        connection.execute(marks.on_conflict_do_update(index_elements=["artifact"], set_=since))


def lock(connection: Connection, owner_id: int, file_id: str) -> bool:
    """Let nobody begin to use the file before the commit; return whether there is one."""
    query = select(files.c.id).where(files.c.id == file_id, files.c.owner_id == owner_id)
    return connection.execute(query.with_for_update()).first() is not None


def is_unvalidated(connection: Connection) -> bool:
    """Whether a file waits for its validation, or is in it."""
    return connection.execute(select(files.c.id).where(_UNVALIDATED).limit(1)).first() is not None


@contextmanager
def unvalidated(
    database: Database, skipped: Collection[str] = ()
) -> Iterator[tuple[Connection, FileRecord] | None]:
    """The oldest file that nobody validates yet, this block's alone while it lasts; None if there is none.

    Only the connection holds it: a process that is killed lets go at once, and its owner may delete it.
    """
    with database.transaction() as connection:
        waiting = select(files.c.id).where(_UNVALIDATED, files.c.id.not_in(skipped))
        for file_id in connection.execute(waiting.order_by(files.c.seq).limit(100)).scalars().all():
            taken = select(func.pg_try_advisory_xact_lock(func.hashtextextended(file_id, _LOCKS)))
            if not connection.execute(taken).scalar():
                continue
            row = connection.execute(select(files).where(files.c.id == file_id, _UNVALIDATED)).one_or_none()
            if row is not None:  # else somebody was done with it just now
                yield connection, _record(row)
                return
        yield None


def settle(
    connection: Connection, file_id: str, lines: int, details: str | None, errors: Sequence[Flaw]
) -> None:
    """Write what a validation found: without errors the file is processed."""
    found = (
        {"status": "error", "errors": [flaw.row() for flaw in errors]} if errors else {"status": "processed"}
    )
    mine = and_(files.c.id == file_id, _UNVALIDATED)
    connection.execute(update(files).where(mine).values(lines=lines, status_details=details, **found))


def is_prunable(connection: Connection) -> bool:
    """Whether a file has expired, or an artifact is to be looked at."""
    expired = select(files.c.id).where(_expired()).limit(1)
    loose = select(loose_artifacts.c.artifact).where(_LONG_LOOSE).limit(1)
    return any(connection.execute(query).first() is not None for query in (expired, loose))


def prune(database: Database, store: ArtifactStore) -> int:
    """Delete the files that have expired, and the bytes that no row names; return how many files."""
    total, gone = 0, _ROWS
    while gone == _ROWS:
        with database.transaction() as connection:
            due = select(files.c.id).where(_expired()).limit(_ROWS).with_for_update(skip_locked=True)
            gone = _forget(connection, files.c.id.in_(due))
        total += gone
    try:
        while _remove_loose(database, store):
            pass
        store.remove_abandoned(_ABANDONED)
    except StorageFailed as error:
        log.warning("artifacts could not be removed, tried again later", error=str(error))
    return total


def loosen_orphans(database: Database, store: ArtifactStore) -> int:
    """Find the artifacts of over a day that no row names and nobody knows to be loose; return how many.

    Whoever was killed, or a dump that was restored, may have left some. They are looked at again, and then
    removed, as all loose ones are.

    Raises:
        StorageFailed: the store is out of reach.
    """
    total = 0
    for names in store.older(_ABANDONED):
        for first in range(0, len(names), _ROWS):
            with database.transaction() as connection:
                some = set(names[first : first + _ROWS])
                for column in (*_NAMING, loose_artifacts.c.artifact):
                    some -= set(connection.execute(select(column).where(column.in_(some))).scalars())
                loosen(connection, sorted(some))
            total += len(some)
    return total


def _remove_loose(database: Database, store: ArtifactStore) -> bool:
    """Look at one artifact, and hold its mark meanwhile: `keep` waits for that, and puts the bytes anew."""
    with database.transaction() as connection:
        due = select(loose_artifacts.c.artifact).where(_LONG_LOOSE).limit(1).with_for_update(skip_locked=True)
        artifact = connection.execute(due).scalar()
        if artifact is None:
            return False
        named = or_(*(exists().where(column == artifact) for column in _NAMING))
        if not connection.execute(select(named)).scalar():
            store.remove(artifact)
        connection.execute(delete(loose_artifacts).where(loose_artifacts.c.artifact == artifact))
    return True


def _forget(connection: Connection, which: ColumnElement[bool]) -> int:
    gone = list(connection.execute(delete(files).where(which).returning(files.c.artifact)).scalars())
    loosen(connection, gone)
    return len(gone)


def _expired() -> ColumnElement[bool]:
    batch = exists().where(batches.c.input_file_id == files.c.id, is_open())
    finetune = exists().where(jobs.c.owner_id == files.c.owner_id, _trains_on(files.c.id))
    return and_(files.c.expires_at < func.now(), ~batch, ~finetune)


def _trains_on(file_id: Any) -> ColumnElement[bool]:
    named = (jobs.c.input[field].astext == file_id for field in ("training_file", "validation_file"))
    return and_(jobs.c.kind == FINETUNE, jobs.c.state.not_in(FINAL), or_(*named))


def _record(row: Row[Any]) -> FileRecord:
    return FileRecord(**{name: getattr(row, name) for name in FileRecord.__dataclass_fields__})


_NAMING = (
    files.c.artifact,
    model_versions.c.tokenizer,
    model_files.c.artifact,
    checkpoint_files.c.artifact,
)
"""Every column that keeps an artifact."""
_UNVALIDATED = files.c.status == "uploaded"
_LONG_LOOSE = loose_artifacts.c.since < func.now() - _LOOSE
