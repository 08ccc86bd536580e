"""What may stand in a request for a chat completion, beside what all that generate have."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from jobs.inputs import MAX_LOGPROBS
from web.choices import ChoicesRequest
from web.errors import BadRequest
from web.requests import MAX_MESSAGES, Count, Label, Metadata


def _text_part(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") != "text":
        raise PydanticCustomError(
            "unsupported_value",
            "'{param}' must be text, for the models here read nothing else: send type 'text'.",
        )
    return value


class _ChatText(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["text"]
    text: str


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _empty(value: Any) -> None:
    if value not in (None, []):
        raise PydanticCustomError("unsupported_value", "'{param}' is not supported. Leave it out.")


Nothing = Annotated[
    None, BeforeValidator(_empty, json_schema_input_type=Annotated[list[None], Field(max_length=0)] | None)
]
"""What an answer's message has, and is sent back as it is."""


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    role: Literal["developer", "system", "user", "assistant"]
    content: Annotated[
        list[Annotated[_ChatText, BeforeValidator(_text_part)]],
        Field(min_length=1),
        BeforeValidator(
            _as_parts, json_schema_input_type=str | Annotated[list[_ChatText], Field(min_length=1)]
        ),
    ]
    name: Label | None = None  # whose turn it is, among several with one role
    annotations: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None
    refusal: Nothing = None
    tool_calls: Nothing = None

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(part.text for part in self.content)


class ChatRequest(ChoicesRequest):
    """`POST /v1/chat/completions`.

    `store` and `metadata` are for OpenAI's distillation and evaluation products; as it does for customers
    whose data it may not retain, `store` counts as false here whatever was sent.
    """

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "audio": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None  # its older name
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    metadata: Metadata = Field(default_factory=dict)
    parallel_tool_calls: bool = True
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    service_tier: Literal["auto", "default"] = "auto"
    store: bool = False

    @property
    def alternatives(self) -> int | None:
        """How many are shown for each token; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def limit(self) -> tuple[str, int | None]:
        """The name under which the caller limits the answer's tokens, and that limit, if any.

        Raises:
            BadRequest: there are two.
        """
        if self.max_tokens is None:
            return "max_completion_tokens", self.max_completion_tokens
        if self.max_completion_tokens is not None:
            said = "'max_tokens' is the older name of 'max_completion_tokens'. Send one of them."
            raise BadRequest(said, param="max_tokens", code="duplicate_parameter")
        return "max_tokens", self.max_tokens
