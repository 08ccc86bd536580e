"""What a trainer writes of a fine-tune while it holds the claim: events, progress, checkpoints."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from jobs import files, lifecycle, published
from jobs.attempts import Claim, ClaimedJob
from jobs.published import Published
from jobs.states import State
from jobs.tables import checkpoint_files, checkpoints, job_events, jobs

GATHERING = "gathering"
"""In a job's progress: {attempt, step}, where its other hosts are to join."""


@dataclass(frozen=True)
class NewEvent:
    """Something that a fine-tune says; with `data` it is a metrics event."""

    message: str
    level: str = "info"
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class NewCheckpoint:
    """A state of a fine-tune, in the artifact store already, and the model that it can be called as."""

    step: int
    metrics: Mapping[str, Any]
    best: bool
    files: Mapping[str, str]  # all of its folder, path: artifact
    model: Published


@dataclass(frozen=True)
class Gathering:
    """An attempt that waits for its other hosts, and the checkpoint from which all of them go on."""

    job: ClaimedJob
    step: int | None


@dataclass(frozen=True)
class Work:
    """What a trainer needs to know of a job beside its input."""

    owner_id: int
    model: str
    progress: dict[str, Any]


def read(connection: Connection, job_id: str) -> Work:
    """The row of a job that was claimed."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
    return Work(row.owner_id, row.model, row.progress or {})


def gatherings(connection: Connection) -> list[Gathering]:
    """The attempts of several hosts that run, the oldest claim first."""
    running = (jobs.c.queue == "train", jobs.c.state == literal_column("'running'"))
    rows = connection.execute(select(jobs).where(*running).order_by(jobs.c.started_at)).all()
    found = [(row, (row.progress or {}).get(GATHERING)) for row in rows]
    return [
        Gathering(ClaimedJob(Claim(row.id, row.attempt), row.model, row.input, row.failures), told["step"])
        for row, told in found
        if told is not None and told["attempt"] == row.attempt
    ]


def is_paused(connection: Connection, claim: Claim) -> bool:
    """Whether its owner wishes that it rests."""
    paused = select(jobs.c.paused_at.is_not(None)).where(*_ours(claim))
    return bool(connection.execute(paused).scalar())


def report(
    connection: Connection, claim: Claim, events: Sequence[NewEvent], progress: Mapping[str, Any] | None
) -> bool:
    """Add events, and replace the progress if one is given; False: the claim is lost, nothing was written."""
    if not _hold(connection, claim):
        return False
    if progress is not None:
        connection.execute(update(jobs).where(jobs.c.id == claim.job_id).values(progress=dict(progress)))
    if events:
        entry = {"job_id": claim.job_id, "attempt": claim.attempt, "state": State.RUNNING}
        rows = [
            entry
            | {"level": event.level, "message": event.message}
            | {"data": None if event.data is None else dict(event.data)}
            for event in events
        ]
        connection.execute(insert(job_events), rows)
    return True


def keep_checkpoint(connection: Connection, claim: Claim, new: NewCheckpoint) -> bool:
    """Record a checkpoint and publish its model; False: the claim is lost, nothing was written.

    What this job's deaths and failures had cost it before is forgiven: it moves.
    """
    if not _hold(connection, claim):
        return False
    row = {
        "id": f"ftckpt_{secrets.token_hex(12)}",
        "job_id": claim.job_id,
        "step": new.step,
        "model": new.model.version.name,
        "metrics": dict(new.metrics),
        "best": new.best,
    }
    if new.best:
        mine = checkpoints.c.job_id == claim.job_id
        connection.execute(update(checkpoints).where(mine).values(best=False))
    made = upsert(checkpoints).values(**row).on_conflict_do_nothing(index_elements=["job_id", "step"])
    made_id = connection.execute(made.returning(checkpoints.c.id)).scalar()
    if made_id is None:  # an attempt before this one got as far; since then it may have been evaluated
        known = (checkpoints.c.job_id == claim.job_id, checkpoints.c.step == new.step)
        connection.execute(update(checkpoints).where(*known).values(best=new.best, metrics=row["metrics"]))
        return True
    each = [{"checkpoint_id": made_id, "path": path, "artifact": name} for path, name in new.files.items()]
    connection.execute(insert(checkpoint_files), each)
    published.publish(connection, new.model)
    lifecycle.forgive(connection, claim)
    return True


def kept(connection: Connection, job_id: str) -> dict[int, dict[str, str]]:
    """The checkpoints of a job by step, the newest first, each with the artifacts of its folder."""
    mine = select(checkpoints.c.id, checkpoints.c.step).where(checkpoints.c.job_id == job_id)
    rows = connection.execute(mine.order_by(checkpoints.c.step.desc())).all()
    found: dict[int, dict[str, str]] = {row.step: {} for row in rows}
    steps = {row.id: row.step for row in rows}
    for file in connection.execute(
        select(checkpoint_files).where(checkpoint_files.c.checkpoint_id.in_(steps))
    ):
        found[steps[file.checkpoint_id]][file.path] = file.artifact
    return found


def forget_checkpoint(connection: Connection, claim: Claim, step: int) -> None:
    """Drop a checkpoint that newer ones replace, and the model that it was; a lost claim drops nothing."""
    if not _hold(connection, claim):
        return
    mine = (checkpoints.c.job_id == claim.job_id, checkpoints.c.step == step)
    row = connection.execute(select(checkpoints.c.id, checkpoints.c.model).where(*mine)).one_or_none()
    if row is None:
        return
    held = select(checkpoint_files.c.artifact).where(checkpoint_files.c.checkpoint_id == row.id)
    loose = list(connection.execute(held).scalars())
    loose += published.remove(connection, row.model)
    connection.execute(delete(checkpoints).where(checkpoints.c.id == row.id))
    files.loosen(connection, loose)


def drop_states(connection: Connection, job_id: str) -> None:
    """Of a job that has ended: nobody goes on from its checkpoints any more, whose models stay."""
    ours = select(checkpoints.c.id).where(checkpoints.c.job_id == job_id)
    gone = delete(checkpoint_files).where(checkpoint_files.c.checkpoint_id.in_(ours))
    files.loosen(connection, connection.execute(gone.returning(checkpoint_files.c.artifact)).scalars().all())


def forget_all(connection: Connection, job_ids: Sequence[str]) -> None:
    """Drop the checkpoints of jobs that are past their retention, and the models that these were."""
    rows = connection.execute(select(checkpoints).where(checkpoints.c.job_id.in_(job_ids))).all()
    for job_id in {row.job_id for row in rows}:
        drop_states(connection, job_id)
    for row in rows:
        files.loosen(connection, published.remove(connection, row.model))


def _hold(connection: Connection, claim: Claim) -> bool:
    """Lock the row until the commit, if it is this claim's still."""
    query = select(jobs.c.id).where(*_ours(claim)).with_for_update()
    return connection.execute(query).first() is not None


def _ours(claim: Claim) -> tuple[Any, ...]:
    return jobs.c.id == claim.job_id, jobs.c.attempt == claim.attempt, jobs.c.state == State.RUNNING
