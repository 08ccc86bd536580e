"""A batch as OpenAI's Batch object."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jobs.batch_states import Status
from jobs.batches import Batch

_TIMES = (
    "created_at",
    "expires_at",
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def batch_object(batch: Batch) -> dict[str, Any]:
    """The Batch, as it is now."""
    times = {name: _seconds(getattr(batch, name)) for name in _TIMES}
    if batch.status is not Status.EXPIRED:
        times["expired_at"] = None  # not before its files are there
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        **times,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": None if batch.usage is None else _usage(batch.usage),
        "metadata": batch.metadata,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _usage(counted: Mapping[str, int]) -> dict[str, Any]:
    read, written = counted["input_tokens"], counted["output_tokens"]
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": counted["cached_tokens"]},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
