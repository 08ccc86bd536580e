"""What may stand in a request for a fine-tune."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from jobs.inputs import MAX_FINETUNE_SEED
from web.errors import BadRequest
from web.query import Query
from web.requests import Label, Metadata, Request
from web.webhook_requests import EventTypes, Url


def _auto_or(kind: type[int] | type[float], least: float, most: float | None) -> PlainValidator:
    """A number in its range, or "auto"."""

    def check(value: Any) -> Any:
        if value == "auto":
            return value
        number = not isinstance(value, bool) and isinstance(value, int | float if kind is float else int)
        if not number or not (least <= value and (most is None or value <= most)) or value == 0:
            noun = "an integer" if kind is int else "a number above"
            span = f"from {least} to {most}" if most is not None else f"{least:g}"
            said = "Invalid value for '{param}'. Send {noun} {span}, or \"auto\"."
            raise PydanticCustomError("invalid_value", said, {"noun": noun, "span": span})
        return value

    span_of = Field(ge=least, le=most) if kind is int else Field(gt=least, le=most)
    return PlainValidator(check, json_schema_input_type=Literal["auto"] | Annotated[kind, span_of])


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AskedHyperparameters(_Part):
    """OpenAI's three."""

    n_epochs: Annotated[Any, _auto_or(int, 1, 50)] = "auto"
    batch_size: Annotated[Any, _auto_or(int, 1, 256)] = "auto"
    learning_rate_multiplier: Annotated[Any, _auto_or(float, 0, None)] = "auto"


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


FileId = Annotated[str, Field(min_length=1, max_length=256)]


class FineTuningRequest(Request):
    """`POST /v1/fine_tuning/jobs`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"integrations": ([],)}

    model: Annotated[str, Field(min_length=1, max_length=256)]
    training_file: FileId
    validation_file: FileId | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_is_named)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_FINETUNE_SEED)] | None = None
    metadata: Metadata = Field(default_factory=dict)
    method: Method | None = None
    hyperparameters: AskedHyperparameters | None = None  # where OpenAI had them before `method`
    user: Label | None = None
    webhook: Url | None = None
    webhook_events_filter: EventTypes | None = None

    @property
    def chosen(self) -> AskedHyperparameters:
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
