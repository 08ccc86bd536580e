"""What may stand in a request for a completion, beside what all that generate have."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from jobs.inputs import MAX_SEQUENCES
from web.choices import ChoicesRequest
from web.requests import MAX_INT

DEFAULT_COMPLETION_TOKENS = 16
"""Of a completion that does not say, as OpenAI's; cut to what the context leaves room for."""

MAX_BEST_OF = 20


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


_Text = Annotated[str, Field(min_length=1)]
_Tokens = Annotated[list[int], Field(min_length=1)]
_Several = Field(min_length=1, max_length=MAX_SEQUENCES)
Prompts = _Text | _Tokens | Annotated[list[_Text], _Several] | Annotated[list[_Tokens], _Several]
"""Every form of OpenAI's `prompt`, as it is documented."""


class CompletionRequest(ChoicesRequest):
    """`POST /v1/completions`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"suffix": ("",)}

    prompt: Annotated[Any, PlainValidator(_as_prompts, json_schema_input_type=Prompts)] = (
        None  # absent: the end-of-text token
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None  # 0: the prompt is only read
    best_of: Annotated[int, Field(ge=1, le=MAX_BEST_OF)] | None = None  # absent: as many as `n`
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def alternatives(self) -> int | None:
        """How many are shown for each token; None: no log-probabilities at all."""
        return self.logprobs

    @property
    def generated(self) -> int:
        """How many texts are written for each prompt; at least the `n` that are shown."""
        return self.n if self.best_of is None else self.best_of
