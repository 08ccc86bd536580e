"""What a fine-tune has beside a job: files to wait for, a pause, events, checkpoints."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text, update

from jobs import files, lifecycle, records
from jobs.errors import InvalidTrainingFile, InvalidValidationFile
from jobs.records import JobRecord
from jobs.states import FINAL, State
from jobs.tables import checkpoints, job_events, jobs

KIND = files.FINETUNE

HELD = datetime(9999, 1, 1, tzinfo=UTC)
"""When a job is available that waits for its files: only once the clerk has read them."""

_SHOWN_ERRORS = 10  # of a file, in the message of the job that it fails
_AT_ONCE = 100  # jobs of one transaction


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


_READY = """
    SELECT job.id FROM jobs job
    WHERE job.state = 'queued' AND job.queue = 'train' AND job.available_at = :held
      AND NOT EXISTS (
        SELECT 1 FROM files file
        WHERE file.owner_id = job.owner_id AND file.status = 'uploaded'
          AND file.id IN (job.input->>'training_file', job.input->>'validation_file')
      )
"""
_FILES = text("""
    SELECT given.id, given.validates, file.status, file.errors
    FROM jobs job
    CROSS JOIN LATERAL (
      VALUES (job.input->>'training_file', false), (job.input->>'validation_file', true)
    ) given (id, validates)
    LEFT JOIN files file ON file.owner_id = job.owner_id AND file.id = given.id
    WHERE job.id = :job AND given.id IS NOT NULL
    ORDER BY given.validates
""")


def any_ready(connection: Connection) -> bool:
    """Whether a job waits for files that have all been read by now, or are gone."""
    return connection.execute(text(f"{_READY} LIMIT 1"), {"held": HELD}).first() is not None


def settle_waiting(connection: Connection) -> tuple[int, int]:
    """Let some of those go on whose files are read, fail those whose files are wrong.

    Returns how many of each; neither: none is left, or another clerk has them.
    """
    some = text(f"{_READY} LIMIT {_AT_ONCE} FOR UPDATE OF job SKIP LOCKED")
    released = failed = 0
    for job_id in connection.execute(some, {"held": HELD}).scalars().all():
        rows = connection.execute(_FILES, {"job": job_id}).all()
        wrong = next((row for row in rows if row.status != "processed"), None)
        if wrong is not None:
            kind = InvalidValidationFile if wrong.validates else InvalidTrainingFile
            failed += lifecycle.fail_queued(connection, job_id, kind(_what_is_wrong(wrong)))
        else:
            connection.execute(
                update(jobs).where(jobs.c.id == job_id).values(available_at=func.clock_timestamp())
            )
            released += 1
    return released, failed


def _what_is_wrong(file: Row[Any]) -> str:
    if file.status is None:
        return "Its file is gone. Upload it again and create another fine-tune."
    found = [
        f"line {one['line']}: {one['message']}" if one.get("line") else str(one["message"])
        for one in file.errors or []
    ]
    more = f" And {len(found) - _SHOWN_ERRORS} more." if len(found) > _SHOWN_ERRORS else ""
    return f"The file {file.id} cannot be trained on. {' '.join(found[:_SHOWN_ERRORS])}{more}"


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
