"""What may stand in a request for a fine-tune; the ranges are those of `jobs.finetune_input`."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from jobs.finetune_input import PRESETS, Adapter, Architecture, Hyperparameters
from jobs.inputs import MAX_FINETUNE_SEED
from web.errors import BadRequest
from web.query import Query
from web.requests import Label, Metadata, UrgentRequest
from web.webhook_requests import EventTypes, Url

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)

Seed = Annotated[int, Field(ge=0, le=MAX_FINETUNE_SEED)]


class _Part(BaseModel):
    model_config = _STRICT


@cache
def _choices(name: str) -> str | None:
    """What a hyperparameter may be that may be left to us by a word: an integer from 1 to 50, or "auto"."""
    choices = Hyperparameters.model_json_schema()["properties"][name].get("anyOf", [])
    words = [f'"{one}"' for choice in choices for one in choice.get("enum", [choice.get("const")]) if one]
    if '"auto"' not in words:
        return None
    numbers = [_range(choice) for choice in choices if choice["type"] in ("integer", "number")]
    return ", ".join([*numbers, *words[:-1]]) + f"{',' if numbers else ''} or {words[-1]}"


def _range(number: Mapping[str, Any]) -> str:
    noun = "an integer" if number["type"] == "integer" else "a number"
    if "exclusiveMinimum" in number:
        return f"{noun} above {number['exclusiveMinimum']} and at most {number['maximum']}"
    if "maximum" in number:
        return f"{noun} from {number['minimum']} to {number['maximum']}"
    return f"{noun} from {number['minimum']}"


class AskedHyperparameters(Hyperparameters):
    """How a fine-tune trains, as a request says it."""

    model_config = _STRICT

    seed: Seed | None = None  # the same as at top level

    @field_validator("*", mode="wrap")
    @classmethod
    def _one_sentence(cls, value: Any, parse: Callable[[Any], Any], info: ValidationInfo) -> Any:
        """Where there are several choices, pydantic would say for each why it is not that one."""
        name = str(info.field_name)
        if isinstance(value, list) and isinstance(cls.model_fields[name].default, tuple):
            value = tuple(value)
        choices = _choices(name) if name in Hyperparameters.model_fields else None
        if choices is None:
            return parse(value)
        try:
            return parse(value)
        except ValidationError:
            said = "Invalid value for '{param}'. Send {choices}."
            raise PydanticCustomError("invalid_value", said, {"choices": choices}) from None

    def chosen(self) -> Hyperparameters:
        """What was asked for, apart from the seed."""
        return Hyperparameters.model_validate(self.model_dump(exclude={"seed"}))


def _as_architecture(value: Any) -> Any:
    """A preset's name, or an object."""
    if not isinstance(value, str):
        return Architecture.model_validate(value, strict=True)
    if value not in PRESETS:
        said = (
            "There is no architecture of that name for '{param}'. Send {names}, or an object with 'n_layer', "
        )
        said += "'n_head' and 'n_embd'."
        raise PydanticCustomError(
            "invalid_value", said, {"names": ", ".join(f'"{name}"' for name in PRESETS)}
        )
    return PRESETS[value]


AskedArchitecture = Annotated[
    Architecture,
    PlainValidator(_as_architecture, json_schema_input_type=Literal[tuple(PRESETS)] | Architecture),
]


class _Supervised(_Part):
    hyperparameters: AskedHyperparameters = Field(default_factory=AskedHyperparameters)


def _supervised_only(kind: Any) -> Any:
    if kind != "supervised":
        said = "'{param}' is only supported as \"supervised\". Send that or leave the method out."
        raise PydanticCustomError("unsupported_value", said)
    return kind


class Method(_Part):
    """How it is trained."""

    type: Annotated[Any, PlainValidator(_supervised_only, json_schema_input_type=Literal["supervised"])]
    supervised: _Supervised = Field(default_factory=_Supervised)


def _is_named(suffix: str) -> str:
    if not all(sign.isascii() and (sign.isalnum() or sign in "-_.") for sign in suffix):
        said = "'{param}' is part of a model's name: send letters, digits, '-', '_' and '.' only."
        raise PydanticCustomError("invalid_value", said)
    return suffix


Name = Annotated[str, Field(min_length=1, max_length=256)]
FileId = Annotated[str, Field(min_length=1, max_length=256)]


class FineTuningRequest(UrgentRequest):
    """`POST /v1/fine_tuning/jobs`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"integrations": ([],)}

    model: Name
    training_file: FileId
    validation_file: FileId | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_is_named)] | None = None
    seed: Seed | None = None
    metadata: Metadata = Field(default_factory=dict)
    method: Method | None = None
    hyperparameters: AskedHyperparameters | None = None  # where OpenAI had them before `method`
    init: Literal["pretrained", "scratch"] = "pretrained"
    architecture: AskedArchitecture | None = None
    tokenizer: Name | None = None
    adapter: Adapter = "full"
    dry_run: bool = False
    user: Label | None = None
    webhook: Url | None = None
    webhook_events_filter: EventTypes | None = None

    @property
    def asked(self) -> AskedHyperparameters:
        """The hyperparameters, from wherever they stand.

        Raises:
            BadRequest: they stand in both places.
        """
        if self.method is None:
            return self.hyperparameters or AskedHyperparameters()
        if self.hyperparameters is not None:
            said = "'hyperparameters' belong into 'method.supervised'. Leave them out here."
            raise BadRequest(said, param="hyperparameters", code="duplicate_parameter")
        return self.method.supervised.hyperparameters

    def path(self, hyperparameter: str) -> str:
        """Where one stands, for an error."""
        return f"{'method.supervised.' if self.method else ''}hyperparameters.{hyperparameter}"


class JobsQuery(Query):
    """`GET /v1/fine_tuning/jobs`; `metadata[name]=value` is read beside it."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None


class EventsQuery(Query):
    """`GET /v1/fine_tuning/jobs/{id}/events`."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None


class CheckpointsQuery(Query):
    """`GET /v1/fine_tuning/jobs/{id}/checkpoints`."""

    limit: Annotated[int, Field(ge=1, le=100)] = 10
    after: str | None = None
