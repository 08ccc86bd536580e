"""What may stand in a request for a response, beside what all that generate have."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from jobs.inputs import MAX_LOGPROBS
from web import refusals
from web.requests import MAX_MESSAGES, Count, Label, Metadata, SampledRequest
from web.webhook_requests import EventTypes

DEFAULT_OUTPUT_TOKENS = 256
"""Of a response that does not say; cut to what the context leaves room for."""


def _only(*ours: Any) -> PlainValidator:
    """A field of OpenAI's of which we have some values."""

    def check(value: Any) -> Any:
        if refusals.is_among(value, ours):
            return value
        allowed = " or ".join(json.dumps(one) for one in ours)
        said = "'{param}' is only supported as {allowed}. Send that or leave it out."
        raise PydanticCustomError("unsupported_value", said, {"allowed": allowed})

    return PlainValidator(check, json_schema_input_type=Annotated[Any, WithJsonSchema({"enum": list(ours)})])


def _unsupported_part(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") not in ("input_text", "output_text"):
        raise PydanticCustomError("unsupported_value", "'{param}' must be text: send type 'input_text'.")
    return value


class _InputText(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] = Field(default_factory=list)  # of an output that is sent back as input
    logprobs: list[Any] | None = None


def _as_parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


class InputMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        list[Annotated[_InputText, BeforeValidator(_unsupported_part)]],
        BeforeValidator(_as_parts, json_schema_input_type=str | list[_InputText]),
    ]
    id: Label | None = None  # of an output that is sent back as input
    status: Label | None = None
    phase: Label | None = None

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(part.text for part in self.content)


_Messages = Annotated[list[InputMessage], Field(max_length=MAX_MESSAGES)]


def _as_messages(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("invalid_type", "Invalid type for '{param}': send a string or an array.")
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _says_something(messages: list[InputMessage]) -> list[InputMessage]:
    if not any(message.text for message in messages):
        raise PydanticCustomError("empty_string", "'{param}' is empty. Send at least one character.")
    return messages


def _no_padding(value: Any) -> Any:
    if value is True:
        said = "'{param}' is false here: no event is padded. Send false or leave it out."
        raise PydanticCustomError("unsupported_value", said)
    return value


class _StreamOptions(BaseModel):
    """What a stream has beside the text: nothing yet."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    include_obfuscation: Annotated[bool | None, BeforeValidator(_no_padding)] = False


class ResponseRequest(SampledRequest):
    """`POST /v1/responses`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **SampledRequest.unsupported,
        "access_programs": (),
        "context_management": (),
        "conversation": (),
        "image": (),
        "max_tool_calls": (),
        "moderation": (),
        "prompt": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning": ({},),
        "tools": ([],),
    }

    input: Annotated[
        _Messages,
        BeforeValidator(_as_messages, json_schema_input_type=str | _Messages),
        AfterValidator(_says_something),
    ]
    instructions: str | None = None
    include: list[Literal["message.output_text.logprobs"]] = Field(default_factory=list)
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] = 0
    background: bool = False
    store: bool = True
    metadata: Metadata = Field(default_factory=dict)
    max_output_tokens: Count | None = None
    max_tokens: Count | None = None  # another name for it

    previous_response_id: Label | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    stream_options: _StreamOptions | None = None
    webhook: Annotated[str, Field(min_length=1)] | None = None
    webhook_events_filter: EventTypes | None = None

    parallel_tool_calls: bool = True
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    service_tier: Annotated[Any, _only("auto", "default")] = None
    text: Annotated[Any, _only({"format": {"type": "text"}}, {})] = None
    tool_choice: Literal["auto", "none"] = "auto"

    @property
    def logprobs(self) -> int | None:
        """How many alternatives are shown for each token; None: no log-probabilities at all."""
        return self.top_logprobs if self.include or self.top_logprobs else None
