"""What the clerk does for batches, in turns: a step of each, so that a large one holds up nobody."""

from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from jobs import batches, lifecycle, signals
from jobs.batch_states import Status
from jobs.batches import Batch
from jobs.errors import DatabaseUnavailable
from web.batch_expansion import expand
from web.batch_output import finalize
from web.desk import Desk

log = structlog.get_logger(__name__)

_STOPPED = 5000  # queued lines that one transaction cancels


@dataclass
class _Stage:
    """A batch on its way to its next status."""

    status: Status
    steps: Iterator[None]
    moved: bool = False


def work(desk: Desk) -> None:
    """Take every batch as far as it goes. May be lost, doubled, or killed at any point."""
    going: dict[str, _Stage] = {}
    resting: set[tuple[str, Status]] = set()  # nothing can be done for these now, or another clerk does it
    with desk.database.transaction() as held:
        while True:
            _admit(desk, held, going, resting)
            if not going:
                return
            for batch_id, stage in list(going.items()):
                if not _step(batch_id, stage):
                    del going[batch_id]
                    if not stage.moved:
                        resting.add((batch_id, stage.status))


def _admit(desk: Desk, held: Connection, going: dict[str, _Stage], resting: set[tuple[str, Status]]) -> None:
    for batch_id, status in batches.due(held):
        if batch_id in going or (batch_id, status) in resting:
            continue
        if batches.take(held, batch_id):
            going[batch_id] = _Stage(status, _steps(desk, batches.read(held, batch_id)))
        else:
            resting.add((batch_id, status))


def _step(batch_id: str, stage: _Stage) -> bool:
    """Take one step; False: there is none left. A batch that makes us stumble holds up no other."""
    try:
        next(stage.steps)
    except StopIteration:
        return False
    except DatabaseUnavailable:
        raise
    except Exception:
        log.exception("a batch stumbled", batch_id=batch_id, status=str(stage.status))
        return False
    stage.moved = True
    return True


def _steps(desk: Desk, batch: Batch) -> Iterator[None]:
    """What brings a batch to its next status, a transaction or a page of lines at a time."""
    match batch.status:
        case Status.VALIDATING:
            if _over(desk, batch):
                yield
            else:
                yield from expand(desk, batch)
        case Status.IN_PROGRESS:
            if _over(desk, batch):
                yield
        case Status.FINALIZING | Status.CANCELLING:
            yield from _stop(desk, batch)
            yield from finalize(desk, batch)


def _over(desk: Desk, batch: Batch) -> bool:
    """Whether all lines have ended or the window has passed, and so the batch has moved on."""
    with desk.database.transaction() as connection:
        finished = batch.status is Status.IN_PROGRESS and batches.finish(connection, batch.id)
        return finished or batches.expire(connection, batch.id)


def _stop(desk: Desk, batch: Batch) -> Iterator[None]:
    """Cancel the lines that wait, and tell the workers of those that run."""
    cancelled = _STOPPED
    while cancelled == _STOPPED:
        with desk.database.transaction() as connection:
            cancelled, running = lifecycle.cancel_lines(connection, batch.id, _STOPPED)
        if running:
            desk.signals.hint(signals.CANCELLED, running)
        if cancelled or running:
            yield
