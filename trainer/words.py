"""What a training child says to its parent: JSON, a line each, through a FIFO that the parent made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FIFO = "said"  # in the job's folder

Phase = Literal["loading", "training", "evaluating", "saving", "publishing"]


class _Word(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)


class Entered(_Word):
    """Another phase has begun. All but training may take long without a word."""

    kind: Literal["phase"] = "phase"
    phase: Phase


class Chosen(_Word):
    """What will be done, every `auto` decided."""

    kind: Literal["chosen"] = "chosen"
    hyperparameters: dict[str, Any]
    total_steps: int
    parameters: int
    trainable: int  # of these
    examples: int
    tokens: int  # of one epoch, padding left out


class Stepped(_Word):
    """A step is done; said at most twice a second."""

    kind: Literal["step"] = "step"
    step: int
    total_steps: int
    trained_tokens: int
    seconds_left: float | None


class Measured(_Word):
    """Metrics of a step: at least every tenth, of each evaluation and of the last one."""

    kind: Literal["metrics"] = "metrics"
    data: dict[str, float | int | None]  # step, total_steps, train_loss, valid_loss, learning_rate, ...


class Said(_Word):
    """A sentence for the job's events: a sample of text, a warning."""

    kind: Literal["message"] = "message"
    level: Literal["info", "warn", "error"] = "info"
    message: str


class Saved(_Word):
    """A checkpoint lies in the folder, manifest and all."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    trained_tokens: int
    best: bool  # by its validation loss so far
    metrics: dict[str, float | int | None]


class Forgotten(_Word):
    """A checkpoint's folder was removed, since newer ones are there."""

    kind: Literal["forgotten"] = "forgotten"
    step: int


class Done(_Word):
    """The model lies in `spec.RESULT`, the table and the curve beside it."""

    kind: Literal["done"] = "done"
    steps: int
    trained_tokens: int
    parameters: int
    context: int
    vocab_size: int
    eos_token_id: int
    is_adapter: bool
    metrics: dict[str, float | int | None]  # the last ones


class Failed(_Word):
    """It cannot be trained, and trying again would not help."""

    kind: Literal["failed"] = "failed"
    code: str  # of a class in jobs.errors
    message: str


class Stopped(_Word):
    """It was told to stop; a checkpoint of this step lies in the folder if any step was made."""

    kind: Literal["stopped"] = "stopped"
    step: int


Word = Entered | Chosen | Stepped | Measured | Said | Saved | Forgotten | Done | Failed | Stopped

WORD: TypeAdapter[Word] = TypeAdapter(Annotated[Word, Field(discriminator="kind")])
"""Parses a line."""
