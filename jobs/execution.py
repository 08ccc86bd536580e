"""How an attempt ends: the one ladder from what happened to what is written."""

from collections.abc import Mapping
from typing import Any

import structlog

from jobs.attempts import ClaimedJob, Ending
from jobs.errors import JobError, Unexpected

log = structlog.get_logger(__name__)


def ending(job: ClaimedJob, outcome: Mapping[str, Any] | BaseException, max_failures: int) -> Ending:
    """The ending of an attempt that gave an output or raised."""
    match outcome:
        case JobError() as error:
            return _failed(job, error, max_failures)
        case BaseException() as crash:
            log.error("attempt crashed", job_id=job.claim.job_id, exc_info=crash)
            return _failed(
                job, Unexpected("The attempt crashed; the worker's log has the trace."), max_failures
            )
        case output:
            return Ending(job.claim, output=output, batch_id=job.batch_id)


def _failed(job: ClaimedJob, error: JobError, max_failures: int) -> Ending:
    """Try again what may succeed, as long as the job has charged failures left."""
    spent = job.failures + error.charged
    again = error.retryable and spent < max_failures
    return Ending(job.claim, error=error, again=again, batch_id=job.batch_id)
