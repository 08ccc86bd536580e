"""What a fine-tune has beside a job: files to wait for, a pause, events, checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, or_, select, text, update

from jobs import files, lifecycle, records
from jobs.catalog import ModelVersion
from jobs.errors import InvalidTrainingFile, InvalidValidationFile, JobError
from jobs.records import JobRecord
from jobs.states import FINAL, State
from jobs.tables import checkpoints, job_events, jobs, model_versions

KIND = files.FINETUNE

HELD = datetime(9999, 1, 1, tzinfo=UTC)
"""When a job is available that waits for its files: only once the clerk has read them."""

_SHOWN_ERRORS = 10  # of a file, in the message of the job that it fails
_AT_ONCE = 100  # jobs of one transaction

LARGE = 16_000_000
"""Bytes of data that are much: whoever has less does not wait for them to be read."""


@dataclass(frozen=True)
class Event:
    """Something that a fine-tune said or that happened to it."""

    id: int
    at: datetime
    state: State
    level: str | None
    message: str | None
    data: dict[str, Any] | None
    attempt: int


@dataclass(frozen=True)
class Checkpoint:
    """A state of a fine-tune that can be called as a model."""

    id: str
    step: int
    model: str
    metrics: dict[str, Any]
    created_at: datetime


def hold(connection: Connection, job_id: str) -> None:
    """Let a job that was just submitted wait for its files."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(available_at=HELD))


@dataclass(frozen=True)
class Given:
    """A file of a fine-tune."""

    id: str
    param: str  # training_file or validation_file
    artifact: str
    filename: str
    bytes: int


@dataclass(frozen=True)
class Waiting:
    """A fine-tune whose files were read by themselves, and not yet against its model."""

    id: str
    owner_id: int
    model: str
    input: dict[str, Any]
    given: Sequence[Given]


_READY = """
    FROM jobs job
    WHERE job.state = 'queued' AND job.queue = 'train' AND job.available_at = :held
      AND NOT EXISTS (
        SELECT 1 FROM files file
        WHERE file.owner_id = job.owner_id AND file.status = 'uploaded'
          AND file.id IN (job.input->>'training_file', job.input->>'validation_file')
      )
"""
_GIVEN = """
    FROM jobs job
    CROSS JOIN LATERAL (
      VALUES (job.input->>'training_file', false), (job.input->>'validation_file', true)
    ) given (id, validates)
    LEFT JOIN files file ON file.owner_id = job.owner_id AND file.id = given.id
    WHERE job.id = :job AND given.id IS NOT NULL
    ORDER BY given.validates
"""
_FILES = text(f"SELECT given.*, file.status, file.errors, file.artifact, file.filename, file.bytes {_GIVEN}")
_WRONG = text(f"""
    SELECT job.id {_READY} AND EXISTS (
      SELECT 1 FROM (VALUES (job.input->>'training_file'), (job.input->>'validation_file')) given (id)
      LEFT JOIN files file ON file.owner_id = job.owner_id AND file.id = given.id
      WHERE given.id IS NOT NULL AND file.status IS DISTINCT FROM 'processed'
    )
    LIMIT {_AT_ONCE} FOR UPDATE OF job SKIP LOCKED
""")
_NEXT = text(f"""
    SELECT ready.* FROM (
      SELECT job.id, job.owner_id, job.model, job.input, job.seq,
        (SELECT coalesce(sum(file.bytes), 0) FROM files file WHERE file.owner_id = job.owner_id
          AND file.id IN (job.input->>'training_file', job.input->>'validation_file')) AS bytes
      {_READY} AND NOT job.id = ANY(:skipped)
    ) ready
    WHERE (bytes > :large) = :is_large
    ORDER BY coalesce(array_position(CAST(:served AS bigint[]), owner_id), 0), seq LIMIT 1
""")


def any_ready(connection: Connection) -> bool:
    """Whether a job waits for files that have all been read by now, or are gone."""
    return connection.execute(text(f"SELECT 1 {_READY} LIMIT 1"), {"held": HELD}).first() is not None


def fail_wrong(connection: Connection) -> int:
    """Fail some of those whose files are wrong by themselves, or gone; return how many, 0: none is left."""
    failed = 0
    for job_id in connection.execute(_WRONG, {"held": HELD}).scalars().all():
        rows = connection.execute(_FILES, {"job": job_id}).all()
        wrong = next(row for row in rows if row.status != "processed")
        kind = InvalidValidationFile if wrong.validates else InvalidTrainingFile
        failed += lifecycle.fail_queued(connection, job_id, kind(_what_is_wrong(wrong)))
    return failed


def next_unread(
    connection: Connection, large: bool, skipped: Collection[str] = (), served: Sequence[int] = ()
) -> Waiting | None:
    """A job whose files are all right by themselves, of little data or of much; None if there is none.

    `served` are owners whose jobs were read before, the last at the end: they come in that order after all
    others. Nothing holds the job: of two who read the same, one comes too late and changes nothing.
    """
    which = {
        "held": HELD,
        "large": LARGE,
        "is_large": large,
        "skipped": list(skipped),
        "served": list(served),
    }
    job = connection.execute(_NEXT, which).one_or_none()
    if job is None:
        return None
    rows = connection.execute(_FILES, {"job": job.id}).all()
    given = [Given(row.id, _param(row), row.artifact, row.filename, row.bytes) for row in rows]
    return Waiting(job.id, job.owner_id, job.model, job.input, given)


def is_held(connection: Connection, job_id: str) -> bool:
    """Whether a job waits for its files still."""
    return connection.execute(select(jobs.c.id).where(*_held(job_id))).first() is not None


def release(connection: Connection, job_id: str) -> bool:
    """Let a job go on that waited for its files; False: it has ended, or somebody else did so."""
    freed = update(jobs).where(*_held(job_id)).values(available_at=func.clock_timestamp())
    return connection.execute(freed).rowcount > 0


def refuse(connection: Connection, job_id: str, error: JobError) -> bool:
    """Fail a job that waited for its files; False: it has ended, or somebody else released it."""
    held = connection.execute(select(jobs.c.id).where(*_held(job_id)).with_for_update()).first()
    return held is not None and lifecycle.fail_queued(connection, job_id, error) > 0


def wrong_file(param: str, file_id: str, flaws: Sequence[Mapping[str, Any]], count: int) -> JobError:
    """The error of a job whose file has these flaws (see `lines.Flaw.row`), of `count` in all."""
    kind = InvalidValidationFile if param == "validation_file" else InvalidTrainingFile
    return kind(f"The file {file_id} cannot be trained on. {_sentences(flaws, count)}")


def version(connection: Connection, owner_id: int, name: str) -> ModelVersion | None:
    """The newest version of a name that an owner may train, offered now or not."""
    theirs = or_(model_versions.c.owner_id.is_(None), model_versions.c.owner_id == owner_id)
    query = select(model_versions).where(model_versions.c.name == name, theirs)
    row = connection.execute(query.order_by(model_versions.c.id.desc()).limit(1)).one_or_none()
    if row is None:
        return None
    known = {field: getattr(row, field) for field in ModelVersion.__dataclass_fields__ if field != "slots"}
    return ModelVersion(**known, slots=1)


def _held(job_id: str) -> tuple[Any, ...]:
    return jobs.c.id == job_id, jobs.c.state == State.QUEUED, jobs.c.available_at == HELD


def _param(row: Row[Any]) -> str:
    return "validation_file" if row.validates else "training_file"


def _what_is_wrong(file: Row[Any]) -> str:
    if file.status is None:
        return "Its file is gone. Upload it again and create another fine-tune."
    flaws = file.errors or []
    return f"The file {file.id} cannot be trained on. {_sentences(flaws, len(flaws))}"


def _sentences(flaws: Sequence[Mapping[str, Any]], count: int) -> str:
    found = [
        f"line {one['line']}: {one['message']}" if one.get("line") else str(one["message"]) for one in flaws
    ]
    said = found[:_SHOWN_ERRORS]
    more = f" And {count - len(said):,} more." if count > len(said) else ""
    return f"{' '.join(said)}{more}"


def pause(connection: Connection, owner_id: int, job_id: str) -> None:
    """Wish that a job rests: a queued one is not claimed, a running one hands itself back."""
    _wish(connection, owner_id, job_id, func.coalesce(jobs.c.paused_at, func.now()))


def resume(connection: Connection, owner_id: int, job_id: str) -> None:
    """Take the wish back."""
    _wish(connection, owner_id, job_id, None)


def _wish(connection: Connection, owner_id: int, job_id: str, paused_at: Any) -> None:
    mine = (jobs.c.id == job_id, jobs.c.owner_id == owner_id, jobs.c.kind == KIND)
    alive = jobs.c.state.not_in(FINAL)
    connection.execute(update(jobs).where(*mine, alive).values(paused_at=paused_at))


def page(
    connection: Connection, owner_id: int, after: str | None, limit: int, metadata: dict[str, str]
) -> tuple[list[JobRecord], bool]:
    """Up to `limit` fine-tunes that follow `after`, the newest first, and whether there are more."""
    wanted = [jobs.c.request["metadata"][name].as_string() == value for name, value in metadata.items()]
    return records.page(connection, owner_id, KIND, after, limit, where=wanted)


def events(connection: Connection, job_id: str, after: int | None, limit: int) -> tuple[list[Event], bool]:
    """Up to `limit` events older than `after`, the newest first, and whether there are more."""
    query = select(job_events).where(job_events.c.job_id == job_id)
    if after is not None:
        query = query.where(job_events.c.id < after)
    rows = connection.execute(query.order_by(job_events.c.id.desc()).limit(limit + 1)).all()
    found = [
        Event(row.id, row.at, State(row.state), row.level, row.message, row.data, row.attempt)
        for row in rows[:limit]
    ]
    return found, len(rows) > limit


def say(connection: Connection, job: JobRecord, message: str, level: str = "info", data: Any = None) -> None:
    """Add an event to a job."""
    entry = {"state": job.state, "attempt": job.attempt, "level": level, "message": message, "data": data}
    connection.execute(insert(job_events).values(job_id=job.id, **entry))


def checkpoint_page(
    connection: Connection, job_id: str, after: str | None, limit: int
) -> tuple[list[Checkpoint], bool]:
    """Up to `limit` checkpoints older than `after`, the newest first, and whether there are more."""
    query = select(checkpoints).where(checkpoints.c.job_id == job_id)
    if after is not None:
        mark = select(checkpoints.c.seq).where(checkpoints.c.id == after, checkpoints.c.job_id == job_id)
        query = query.where(checkpoints.c.seq < mark.scalar_subquery())
    rows = connection.execute(query.order_by(checkpoints.c.seq.desc()).limit(limit + 1)).all()
    return [_checkpoint(row) for row in rows[:limit]], len(rows) > limit


def has_checkpoint(connection: Connection, job_id: str, checkpoint_id: str) -> bool:
    """Whether the job has a checkpoint of that id."""
    mine = (checkpoints.c.job_id == job_id, checkpoints.c.id == checkpoint_id)
    return connection.execute(select(checkpoints.c.id).where(*mine)).first() is not None


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(row.id, row.step, row.model, row.metrics, row.created_at)
