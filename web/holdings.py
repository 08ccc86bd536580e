"""What an owner keeps here, as the OpenAPI document shows it: files, batches, fine-tunes, webhooks, usage."""

from typing import Literal

from pydantic import BaseModel, RootModel

from web.answers import Eta, Listing, Page, Values


class DeletedFile(BaseModel):
    """It is gone; the owner's `trained_models` learned from it, and are still there."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]
    trained_models: list[str]


class DeletedWebhookEndpoint(BaseModel):
    """It is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class FileObject(BaseModel):
    """An uploaded file, or one that a batch or a fine-tune wrote."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal[
        "assistants",
        "assistants_output",
        "batch",
        "batch_output",
        "fine-tune",
        "fine-tune-results",
        "vision",
        "user_data",
    ]
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None


class BatchError(BaseModel):
    """What is wrong with a line of the input."""

    code: str
    line: int | None
    message: str
    param: str | None


class RequestCounts(BaseModel):
    """The lines of a batch."""

    total: int
    completed: int
    failed: int


class Batch(BaseModel):
    """Many requests in one file."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: Listing[BatchError] | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating",
        "failed",
        "in_progress",
        "finalizing",
        "completed",
        "expired",
        "cancelling",
        "cancelled",
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int | None
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: Values | None
    metadata: dict[str, str] | None


class FineTuningJob(BaseModel):
    """A fine-tune; one that rests is queued and has `paused_at`."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    status: Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
    error: Values | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    training_file: str
    validation_file: str | None
    hyperparameters: Values
    method: Values
    seed: int
    trained_tokens: int | None
    estimated_finish: int | None
    result_files: list[str]
    integrations: list[Values]
    metadata: dict[str, str]
    paused_at: int | None
    progress: Values | None
    init: Literal["pretrained", "scratch"]
    adapter: Literal["full", "lora", "qlora"]
    architecture: Values | None
    tokenizer: str | None
    attempt: int
    queue_position: int | None
    eta: Eta | None
    priority: int
    deadline: float | None
    cancel_ms: float | None


class FineTuningDryRun(BaseModel):
    """What a fine-tune would be. What cannot be known yet is null, and a warning says why."""

    object: Literal["fine_tuning.job.dry_run"]
    model: str
    parameters: int
    trainable_parameters: int
    checkpoint_bytes: int
    examples: int | None
    tokens: int | None
    trained_tokens: int | None
    steps: int | None
    padding: float | None
    hyperparameters: Values
    memory_bytes: int | None
    duration_seconds: float | None
    warnings: list[str]


class FineTuningJobOrDryRun(RootModel[FineTuningJob | FineTuningDryRun]):
    """The job, or what it would be."""


class FineTuningEvent(BaseModel):
    """Something that a fine-tune said."""

    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: Values


class FineTuningCheckpoint(BaseModel):
    """A state of a fine-tune that can be called as a model."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: Values


class ModelExport(BaseModel):
    """A model as a folder in one file, and where it was pushed to."""

    id: str
    object: Literal["model.export"]
    created_at: int
    finished_at: int | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    model: str
    file_id: str | None
    hub: str | None
    space: str | None
    error: Values | None
    cancel_ms: float | None


class WebhookEndpoint(BaseModel):
    """Where to tell of ends."""

    id: str
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    disabled_at: int | None


class WebhookEndpointWithSecret(WebhookEndpoint):
    """The same, with what signs its deliveries."""

    signing_secret: str


class WebhookTest(BaseModel):
    """What the target of an endpoint answered."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True]


class Usage(BaseModel):
    """What was done with a key on a day."""

    object: Literal["usage"]
    day: str
    key: str
    jobs: int
    input_tokens: int
    output_tokens: int
    worker_seconds: float


class UsagePage(Page[Usage]):
    """The days from `start` to `end`."""

    start: str
    end: str
