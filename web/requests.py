"""What every request that generates may say, with its limits and defaults: parsed once at the door."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

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

from jobs.inputs import MAX_BEAMS, MAX_SEED
from web import refusals
from web.errors import BadRequest
from web.refusals import Refusal

MAX_INT = 2**31 - 1
_LATEST = 4_102_444_800  # Unix seconds: the year 2100
_LONGEST = 30 * 24 * 3600  # seconds
MAX_MESSAGES = 2048
"""Of one request, as OpenAI's; tens of thousands would hold up everybody else while they are read."""


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1, le=MAX_INT)]
Label = Annotated[str, Field(max_length=512)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Words = Annotated[str, Field(min_length=1, max_length=256)]
_Stops = Annotated[list[Words], Field(max_length=4)]
Stop = Annotated[_Stops, BeforeValidator(_one_or_many, json_schema_input_type=Words | _Stops)]
Token = Annotated[int, Field(ge=0, le=MAX_INT)]
Share = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


def _bool_or_never(value: Any) -> Any:
    if isinstance(value, bool) or value == "never":
        return value
    raise PydanticCustomError("invalid_value", "Invalid value for '{param}'. Send true, false or \"never\".")


EarlyStopping = Annotated[
    bool | Literal["never"], PlainValidator(_bool_or_never, json_schema_input_type=bool | Literal["never"])
]


def _named_by_tokens(bias: dict[str, float]) -> dict[str, float]:
    for name in bias:
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            said = "'{param}' is by token id: {name} is none. Send an object such as {\"42\": -100}."
            raise PydanticCustomError("invalid_value", said, {"name": refusals.shown(name)})
    return bias


_TokenName = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}$"})]
Bias = Annotated[
    dict[_TokenName, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=300),
    AfterValidator(_named_by_tokens),
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


class UrgentRequest(Request):
    """A request for a job that may wait."""

    priority: Annotated[int, Field(ge=-100, le=100)] = 0  # among the jobs of its owner, higher first
    deadline: Annotated[int, Field(ge=0, le=_LATEST)] | None = None  # Unix seconds
    max_queue_seconds: Annotated[float, Field(gt=0, le=_LONGEST)] | None = None

    @property
    def urgency(self) -> dict[str, Any]:
        """The fields of a new job that say so: not begun by the earlier of the two, it fails."""
        ends = []
        if self.deadline is not None:
            ends.append(datetime.fromtimestamp(self.deadline, UTC))
        if self.max_queue_seconds is not None:
            ends.append(datetime.now(UTC) + timedelta(seconds=self.max_queue_seconds))
        return {"priority": self.priority, "deadline": min(ends, default=None)}


class SampledRequest(UrgentRequest):
    """How each next token is chosen and when to stop, with the same names in every call that generates."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"logprobs": (), "stream_options": ()}

    model: Annotated[str, Field(min_length=1, max_length=256)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    logit_bias: Bias = Field(default_factory=dict)
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=MAX_INT)] = 0
    bad_words: Annotated[list[Words], Field(max_length=100)] = Field(default_factory=list)
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] = 0
    top_p: Share = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Share = 1.0
    num_beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] = 1
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    early_stopping: EarlyStopping = False
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] = 0
    stop: Stop = Field(default_factory=list)
    stop_token_ids: Annotated[list[Token], Field(max_length=64)] = Field(default_factory=list)
    ignore_eos: bool = False
    stream: bool = False
    user: Label | None = None
