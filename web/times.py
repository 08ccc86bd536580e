"""What the times of a job come to, in milliseconds of the database's clock."""

from datetime import timedelta
from typing import Any

from jobs.records import JobRecord
from jobs.states import State


def times(record: JobRecord) -> dict[str, float | None]:
    """Until the last attempt began, from there to the end, in the engine, and from a cancel to free slots."""
    queued = running = None
    if record.started_at is not None:
        queued = _milliseconds(record.started_at - record.created_at)
        if record.finished_at is not None:
            running = _milliseconds(record.finished_at - record.started_at)
    engine = (record.output or {}).get("engine_ms")
    return {"queue_ms": queued, "run_ms": running, "engine_ms": engine, "cancel_ms": cancel_ms(record)}


def cancel_ms(record: JobRecord) -> float | None:
    """From the wish to the end, which is written when the job has no slot any more; of one queued it is 0."""
    asked, ended = record.cancel_requested_at, record.finished_at
    if record.state is not State.CANCELLED or asked is None or ended is None:
        return None
    return _milliseconds(ended - asked)


def _milliseconds(span: timedelta) -> float:
    return round(span.total_seconds() * 1000, 1)


def standing(record: JobRecord) -> dict[str, Any]:
    """What a job says of its place in the queue beside the place; moments are Unix seconds."""
    eta = record.eta
    return {
        "eta": eta and {"p50": round(eta.p50.timestamp(), 3), "p90": round(eta.p90.timestamp(), 3)},
        "priority": record.priority,
        "deadline": record.deadline and round(record.deadline.timestamp(), 3),
    }
