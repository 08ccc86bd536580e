"""A fine-tune as OpenAI's FineTuningJob object: the one place where our states become its statuses."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jobs import finetunes
from jobs.errors import InvalidTrainingFile, InvalidValidationFile
from jobs.finetunes import Checkpoint, Event
from jobs.records import JobRecord
from jobs.states import FINAL, State
from web.times import cancel_ms, standing

_AT_FAULT = {InvalidTrainingFile.code: "training_file", InvalidValidationFile.code: "validation_file"}


def job_object(record: JobRecord, owner_id: int) -> dict[str, Any]:
    """The FineTuningJob of a job."""
    work, output, progress = record.input, record.output or {}, record.progress or {}
    adapter = work.get("adapter", "full")
    hyperparameters = shown(progress.get("hyperparameters") or work["hyperparameters"], adapter)
    return {
        "id": record.id,
        "object": "fine_tuning.job",
        "created_at": _unix(record.created_at),
        "finished_at": _unix(record.finished_at),
        "status": _status(record),
        "error": _error(record),
        "model": record.model,
        "fine_tuned_model": output.get("fine_tuned_model"),
        "organization_id": f"org-{owner_id}",
        "training_file": work["training_file"],
        "validation_file": work["validation_file"],
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": work["seed"],
        "suffix": work["suffix"],
        "trained_tokens": output.get("trained_tokens", progress.get("trained_tokens")),
        "estimated_finish": progress.get("estimated_finish") if record.state is State.RUNNING else None,
        "result_files": output.get("result_files", []),
        "integrations": [],
        "metadata": record.request["metadata"],
        "user_provided_suffix": work["suffix"],
        # ours
        "paused_at": None if record.state in FINAL else _unix(record.paused_at),
        "progress": {name: progress[name] for name in ("step", "total_steps") if name in progress} or None,
        "init": work.get("init", "pretrained"),
        "adapter": adapter,
        "architecture": work.get("architecture"),
        "tokenizer": work.get("tokenizer"),
        "attempt": record.attempt,
        "queue_position": record.queue_position,
        **standing(record),
        "cancel_ms": cancel_ms(record),
    }


def shown(hyperparameters: Mapping[str, Any], adapter: str) -> dict[str, Any]:
    """Those that have a meaning for this method."""
    lora = adapter != "full"
    return {name: value for name, value in hyperparameters.items() if lora or not name.startswith("lora_")}


def event_object(event: Event, error: dict[str, str] | None) -> dict[str, Any]:
    """A FineTuningJobEvent; `error` is that of the job."""
    return {
        "id": f"ftevent-{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": _unix(event.at),
        "level": event.level or ("error" if event.state is State.FAILED else "info"),
        "message": event.message or _message(event, error),
        "type": "message" if event.data is None else "metrics",
        "data": event.data or {},
    }


def checkpoint_object(checkpoint: Checkpoint, job_id: str) -> dict[str, Any]:
    """A FineTuningJobCheckpoint."""
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": _unix(checkpoint.created_at),
        "fine_tuned_model_checkpoint": checkpoint.model,
        "fine_tuning_job_id": job_id,
        "step_number": checkpoint.step,
        "metrics": checkpoint.metrics,
    }


def _status(record: JobRecord) -> str:
    """Of OpenAI's closed list, in which there is no pause: a job that rests is queued (see `paused_at`)."""
    if record.state in FINAL:
        return record.state
    if record.paused_at is not None:
        return "queued"
    if record.state is State.QUEUED and record.available_at == finetunes.HELD:
        return "validating_files"
    return record.state


def _error(record: JobRecord) -> dict[str, Any] | None:
    if record.error is None:
        return None
    code = record.error["code"]
    return {"code": code, "message": record.error["message"], "param": _AT_FAULT.get(code)}


def _message(event: Event, error: dict[str, str] | None) -> str:
    """What a move says."""
    match event.state:
        case State.QUEUED if event.attempt == 0:
            return "The fine-tuning job was created."
        case State.QUEUED:
            return "The fine-tuning job was handed back and waits to go on."
        case State.RUNNING:
            return "The fine-tuning job runs."
        case State.SUCCEEDED:
            return "The fine-tuning job has completed."
        case State.FAILED:
            return error["message"] if error else "The fine-tuning job has failed."
        case State.CANCELLED:
            return "The fine-tuning job was cancelled."


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
