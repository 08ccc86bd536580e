"""What may stand in a request, with its limits and defaults: parsed once at the door."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from jobs.inputs import MAX_SEED, MAX_SEQUENCES
from web import refusals
from web.errors import BadRequest
from web.refusals import Refusal

DEFAULT_OUTPUT_TOKENS = 256
"""Of a response that does not say; cut to what the context leaves room for."""
DEFAULT_COMPLETION_TOKENS = 16
"""Of a completion that does not say, as OpenAI's; cut to what the context leaves room for."""

_MAX_INT = 2**31 - 1


def _only(*ours: Any) -> PlainValidator:
    """A field of OpenAI's of which we have some values."""

    def check(value: Any) -> Any:
        if refusals.is_among(value, ours):
            return value
        allowed = " or ".join(json.dumps(one) for one in ours)
        said = "'{param}' is only supported as {allowed}. Send that or leave it out."
        raise PydanticCustomError("unsupported_value", said, {"allowed": allowed})

    return PlainValidator(check)


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_streamed(value: Any) -> Any:
    if value is True:
        raise PydanticCustomError(
            "unsupported_value",
            "Streaming is not available yet. Leave 'stream' out and set 'background': true to poll a "
            "response, or wait for the whole answer.",
        )
    return value


Count = Annotated[int, Field(ge=1, le=_MAX_INT)]
Label = Annotated[str, Field(max_length=512)]
NotStreamed = Annotated[Literal[False], BeforeValidator(_not_streamed)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    Field(max_length=4),
    BeforeValidator(_one_or_many),
]


class Request(BaseModel):
    """A request's parameters, with OpenAI's names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """OpenAI's parameters that we do not have, each with the values beside null that change nothing."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The request in `values`; a null means that the parameter was left out.

        Raises:
            BadRequest: an unknown or unsupported parameter.
            ValidationError: a value of the wrong type or out of range (see `web.refusals`).
        """
        given = {}
        for name, value in values.items():
            if name in cls.model_fields:
                given[name] = value
            elif refusal := cls._foreign(name, value):
                raise BadRequest.of(refusal)
        return cls.model_validate({name: value for name, value in given.items() if value is not None})

    @classmethod
    def _foreign(cls, name: str, value: Any) -> Refusal | None:
        if value is None and name in cls.unsupported:
            return None
        return refusals.foreign(name, value, cls.model_fields, cls.unsupported)


class SampledRequest(Request):
    """How each next token is chosen and when to stop, with the same names in every call that generates."""

    unsupported = {
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "logprobs": (),
        "presence_penalty": (0,),
        "stream_options": (),
    }

    model: Annotated[str, Field(min_length=1, max_length=256)]
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=_MAX_INT)] = 0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=_MAX_INT)] = 0
    ignore_eos: bool = False
    stop: Stop = Field(default_factory=list)
    stream: NotStreamed = False
    user: Label | None = None


def _unsupported_part(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") not in ("input_text", "output_text"):
        raise PydanticCustomError("unsupported_value", "'{param}' must be text: send type 'input_text'.")
    return value


class _TextPart(BaseModel):
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
        list[Annotated[_TextPart, BeforeValidator(_unsupported_part)]], BeforeValidator(_as_parts)
    ]
    id: Label | None = None  # of an output that is sent back as input
    status: Label | None = None
    phase: Label | None = None

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(part.text for part in self.content)


def _as_messages(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("invalid_type", "Invalid type for '{param}': send a string or an array.")
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _says_something(messages: list[InputMessage]) -> list[InputMessage]:
    if not any(message.text for message in messages):
        raise PydanticCustomError("empty_string", "'{param}' is empty. Send at least one character.")
    return messages


class ResponseRequest(SampledRequest):
    """`POST /v1/responses`."""

    unsupported = {
        **SampledRequest.unsupported,
        "access_programs": (),
        "context_management": (),
        "conversation": (),
        "image": (),
        "include": ([],),
        "max_tool_calls": (),
        "moderation": (),
        "previous_response_id": (),
        "prompt": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning": ({},),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    input: Annotated[list[InputMessage], BeforeValidator(_as_messages), AfterValidator(_says_something)]
    instructions: str | None = None
    background: bool = False
    store: bool = True
    metadata: Metadata = Field(default_factory=dict)
    max_output_tokens: Count | None = None
    max_tokens: Count | None = None  # another name for it

    parallel_tool_calls: bool = True
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    service_tier: Annotated[Any, _only("auto", "default")] = None
    text: Annotated[Any, _only({"format": {"type": "text"}}, {})] = None
    tool_choice: Literal["auto", "none"] = "auto"
    truncation: Annotated[Any, _only("disabled")] = None


def _as_prompts(value: Any) -> list[str | list[int]]:
    """Every form of OpenAI's `prompt` as a list of prompts."""
    match value:
        case str():
            prompts: list[Any] = [value]
        case [int(), *_]:
            prompts = [value]
        case list():
            prompts = value
        case _:
            raise _bad_prompt()
    if not all(isinstance(prompt, str) or _are_tokens(prompt) for prompt in prompts):
        raise _bad_prompt()
    if not prompts or not all(prompts):
        raise PydanticCustomError("empty_string", "'{param}' is empty. Send text, or leave it out.")
    if len(prompts) > MAX_SEQUENCES:
        said = "'{param}' has too many items. Send at most {limit}."
        raise PydanticCustomError("array_above_max_length", said, {"limit": MAX_SEQUENCES})
    return prompts


def _are_tokens(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(type(token) is int for token in prompt)


def _bad_prompt() -> PydanticCustomError:
    return PydanticCustomError(
        "invalid_type",
        "Invalid type for '{param}': send a string, an array of strings, or token ids as an array of "
        "integers or of such arrays.",
    )


class CompletionRequest(SampledRequest):
    """`POST /v1/completions`."""

    unsupported = {
        **SampledRequest.unsupported,
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }

    prompt: Annotated[Any, PlainValidator(_as_prompts)] = None  # absent: the end-of-text token
    max_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] = 1
