"""A call whose connection waits for its job."""

from jobs import lifecycle, records, signals
from jobs.attempts import NewJob
from jobs.queue import enqueue
from jobs.records import JobRecord
from jobs.states import FINAL, State
from web.backend import Backend
from web.errors import Unavailable


def run(backend: Backend, job: NewJob) -> JobRecord:
    """The job after its end; a job that was not to be stored is gone by then.

    Raises:
        Unavailable: all places are taken, or the job took too long and was given up.
        DatabaseUnavailable: nothing was accepted, or the answer could not be read.
    """
    with backend.waiting.place() as free:
        if not free:
            said = (
                "Too many calls wait for their answers here. Try again, or set 'background': true and poll."
            )
            raise Unavailable(said, code="too_many_waiting", retry_after=2)
        enqueue(backend.database, backend.signals, job)
        backend.waiting.wait(job.id, backend.settings.sync_wait_seconds)
    record = _answer(backend, job)
    if record is None:
        raise Unavailable("The job was deleted before it ended.", code="job_deleted", should_retry=False)
    if record.state not in FINAL:
        give_up(backend, job.id, job.owner_id)
        said = "The answer did not come in time, so the job was cancelled."
        hint = "Try again, or set 'background': true and poll."
        raise Unavailable(f"{said} {hint}", code="timeout", retry_after=5)
    return record


def give_up(backend: Backend, job_id: str, owner_id: int) -> None:
    """Cancel a job and tell everybody whom it concerns."""
    with backend.database.transaction() as connection:
        before = lifecycle.request_cancel(connection, job_id, owner_id)
    tell(backend, job_id, before)


def tell(backend: Backend, job_id: str, before: State | None) -> None:
    """Say that a job was cancelled which stood at `before`: its worker shall drop it, or it has ended."""
    if before is State.RUNNING:
        backend.signals.hint(signals.CANCELLED, [job_id])
    elif before is State.QUEUED:
        backend.signals.hint(signals.ENDED, [job_id])


def _answer(backend: Backend, job: NewJob) -> JobRecord | None:
    with backend.database.transaction() as connection:
        record = records.find(connection, job.owner_id, job.kind, job.id)
        if record is not None and record.state in FINAL and not job.stored:
            records.forget(connection, job.owner_id, job.kind, job.id)
    return record
