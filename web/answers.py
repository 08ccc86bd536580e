"""What a request can be answered with, errors and pages too, as the OpenAPI document shows it."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

Values = dict[str, Any]
T = TypeVar("T")


class Eta(BaseModel):
    """When a queued job will have ended, in Unix seconds: half of them by p50, nine of ten by p90."""

    p50: float
    p90: float


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
    eta: Eta | None
    priority: int
    deadline: float | None
    receipt: Values | None
    queue_ms: float | None
    run_ms: float | None
    engine_ms: float | None
    cancel_ms: float | None


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
    lineage: Values | None = None  # of a fine-tuned one


class Health(BaseModel):
    """How it stands."""

    status: str
