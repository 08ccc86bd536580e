"""Whether a fine-tune's files can be learned by its model: read once by the clerk, before any trainer."""

import time
from collections.abc import Callable

import structlog

from jobs import finetunes
from jobs.errors import DatabaseUnavailable, JobError, ModelUnavailable
from jobs.finetune_input import FinetuneInput
from jobs.finetunes import Given, Waiting
from jobs.queue import Chore, QueueName
from web import fine_tuning_data as data
from web import learner as learning
from web.desk import Desk
from web.fine_tuning_data import Stopped
from web.learner import Learner

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0  # between two looks whether the job still waits


def work(desk: Desk, large: bool, stopped: Callable[[], bool] = lambda: False) -> None:
    """Release every fine-tune that waits for its files, or fail it. May be lost, doubled, or killed.

    Of those with much data and those with little, only the ones asked for are read, so that one thread can
    serve each; the owners take turns.
    """
    stumbled: set[str] = set()
    served: list[int] = []
    while not stopped():
        with desk.database.transaction() as connection:
            failed = finetunes.fail_wrong(connection)
            job = None if failed else finetunes.next_unread(connection, large, stumbled, served)
        if failed:
            desk.signals.ring(Chore.DELIVER)
            continue
        if job is None:
            return
        served = [*(owner for owner in served if owner != job.owner_id), job.owner_id]
        try:
            error = _Review(desk, job, stopped).error()
        except Stopped:
            continue
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("a fine-tune's files could not be read, tried again later", job_id=job.id)
            stumbled.add(job.id)
            continue
        _settle(desk, job.id, error)


def _settle(desk: Desk, job_id: str, error: JobError | None) -> None:
    with desk.database.transaction() as connection:
        if error is None:
            moved = finetunes.release(connection, job_id)
        else:
            moved = finetunes.refuse(connection, job_id, error)
    log.info("read a fine-tune's files", job_id=job_id, code=error.code if error else None, in_time=moved)
    desk.signals.ring(QueueName.TRAIN if error is None else Chore.DELIVER)


class _Review:
    """One job's."""

    def __init__(self, desk: Desk, job: Waiting, stopped: Callable[[], bool]) -> None:
        self._desk, self._job, self._stopped = desk, job, stopped
        self._work = FinetuneInput.model_validate(job.input)
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def error(self) -> JobError | None:
        """What keeps it from being trained; None: nothing.

        Raises:
            Stopped: the clerk stops, or the job has ended.
        """
        job, desk = self._job, self._desk
        try:
            with desk.database.transaction() as connection:
                base, reads = learning.find(connection, job.owner_id, job.model, self._work)
            learner = learning.learner_of(self._work, base, reads, desk.tokenizers)
            block = learner.block(self._work)
        except ModelUnavailable as error:
            return error
        except ValueError as error:  # the model is another one by now
            return ModelUnavailable(f"'block_size' is too large for the model '{job.model}': {error}.")
        errors = (self._error_of(given, learner, block) for given in job.given)
        return next((error for error in errors if error is not None), None)

    def _error_of(self, given: Given, learner: Learner, block: int) -> JobError | None:
        try:
            stream = self._desk.store.open(given.artifact)
        except FileNotFoundError:
            lost = {"message": "Its bytes are gone. Upload it again."}
            return finetunes.wrong_file(given.param, given.id, [lost], 1)
        with stream:
            found = data.read(stream, given.filename, learner, self._desk.tokenizers, block, self._go_on)
        flaws, count = data.verdict(found, given.param, self._work, block)
        return finetunes.wrong_file(given.param, given.id, flaws, count) if count else None

    def _go_on(self) -> None:
        if self._stopped():
            raise Stopped
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            with self._desk.database.transaction() as connection:
                if not finetunes.is_held(connection, self._job.id):
                    raise Stopped
