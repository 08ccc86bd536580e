"""A call whose connection waits for its job."""

from jobs import creates, lifecycle, records, signals
from jobs.attempts import NewJob
from jobs.queue import Chore
from jobs.records import JobRecord
from jobs.states import FINAL, State
from web import idempotency
from web.backend import Backend
from web.connection import current as current_connection
from web.errors import Unavailable, failed_job


def run(backend: Backend, job: NewJob) -> JobRecord:
    """The job after its end; for a request that is sent again, the one that it made first.

    Raises:
        Unavailable: all places are taken, or the job was given up: it took too long, or the client has gone.
        DatabaseUnavailable: nothing was accepted, or the answer could not be read.
    """
    with backend.waiting.place() as free:
        if not free:
            said = (
                "Too many calls wait for their answers here. Try again, or set 'background': true and poll."
            )
            raise Unavailable(said, code="too_many_waiting", retry_after=2)
        job_id = idempotency.accept(job).id
        watch = backend.waiting.wait(job_id, backend.settings.sync_wait_seconds, current_connection())
    if watch.gone and not watch.ended:
        give_up(backend, job_id, job.owner_id)
        raise Unavailable("The client closed the connection, so the job was cancelled.", code="client_gone")
    with backend.database.transaction() as connection:
        record = records.find(connection, job.owner_id, job.kind, job_id)
    if record is None:
        raise Unavailable("The job was deleted before it ended.", code="job_deleted", should_retry=False)
    if record.state not in FINAL:
        give_up(backend, job_id, job.owner_id)
        said = "The answer did not come in time, so the job was cancelled."
        hint = "Try again, or set 'background': true and poll."
        raise Unavailable(f"{said} {hint}", code="timeout", retry_after=5)
    return record


def answer(backend: Backend, job: NewJob) -> JobRecord:
    """The job after it succeeded.

    Raises:
        ApiError: as `run`, or it did not succeed.
    """
    record = run(backend, job)
    if record.state is not State.SUCCEEDED or record.output is None:
        with backend.database.transaction() as connection:
            creates.forget(connection, record.id)  # who tries again shall not get this one
        raise failed_job(record.error)
    return record


def give_up(backend: Backend, job_id: str, owner_id: int) -> None:
    """Cancel a job and tell everybody whom it concerns, unless a repeated request waits for it too."""
    with backend.database.transaction() as connection:
        if not creates.leave(connection, job_id):
            return
        before = lifecycle.request_cancel(connection, job_id, owner_id)
        if before is not State.SUCCEEDED:  # what came just too late to be cancelled is a retry's answer
            creates.forget(connection, job_id)
    tell(backend, job_id, before)


def tell(backend: Backend, job_id: str, before: State | None) -> None:
    """Say that a job was cancelled which stood at `before`: its worker shall drop it, or it has ended."""
    if before is State.RUNNING:
        backend.signals.hint(signals.CANCELLED, [job_id])
    elif before is State.QUEUED:
        backend.signals.hint(signals.ENDED, [job_id])
        backend.signals.ring(Chore.DELIVER)
