"""What is answered, as the OpenAPI document shows it: only described here; `*_object.py` make the objects."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

Values = dict[str, Any]
T = TypeVar("T")


class ErrorBody(BaseModel):
    """What was wrong, where, and what to do instead."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every answer that is no success."""

    error: ErrorBody


class Listing(BaseModel, Generic[T]):
    """Everything at once."""

    object: Literal["list"]
    data: list[T]


class Page(Listing[T], Generic[T]):
    """A page; the next one is asked for with `after`, the last id of this one."""

    has_more: bool


class NamedPage(Page[T], Generic[T]):
    """A page that names its ends."""

    first_id: str | None
    last_id: str | None


class DeletedFile(BaseModel):
    """It is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class DeletedModel(BaseModel):
    """It is gone."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


class DeletedResponse(BaseModel):
    """It is gone."""

    id: str
    object: Literal["response.deleted"]
    deleted: Literal[True]


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


class ResponseError(BaseModel):
    """Why a response has failed; `reason` is our own code."""

    code: Literal["server_error", "invalid_prompt"]
    message: str
    reason: str


class Response(BaseModel):
    """A response, which is a job: ask for it again until its status is final."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
    background: bool
    error: ResponseError | None
    incomplete_details: Values | None
    instructions: str | None
    max_output_tokens: int
    metadata: dict[str, str]
    model: str
    output: list[Values]
    parallel_tool_calls: bool
    previous_response_id: str | None
    temperature: float
    tool_choice: Literal["auto", "none"]
    tools: list[Values]
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: Values | None
    attempt: int
    queue_position: int | None
    receipt: Values | None
    queue_ms: float | None
    run_ms: float | None
    engine_ms: float | None


class InputItem(BaseModel):
    """A turn that a response has read."""

    id: str
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    status: str
    content: list[Values]


class CompletionChoice(BaseModel):
    """One text."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: Values | None


class Completion(BaseModel):
    """Texts that go on where their prompts end."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Values
    receipt: Values | None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Values
    finish_reason: Literal["stop", "length"]
    logprobs: Values | None


class ChatCompletion(BaseModel):
    """The next turn of a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: str
    choices: list[ChatChoice]
    usage: Values
    receipt: Values | None


class Model(BaseModel):
    """What can be named as a `model`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    digest: str
    context: int
    quantization: str
    parameters: int


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
    attempt: int
    queue_position: int | None


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


class Health(BaseModel):
    """How it stands."""

    status: str
