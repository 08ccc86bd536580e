"""What a fine-tune would be, and nothing made: its data checked and counted, its plan, what it will need."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from jobs import finetunes, packing, plan, rendering, trainers
from jobs.artifacts import ArtifactStore
from jobs.files import FileRecord
from jobs.finetune_input import Precision
from jobs.plan import Plan
from web import connection as client
from web import file_validation
from web import fine_tuning_data as data
from web.backend import Backend
from web.errors import BadRequest, Unavailable
from web.fine_tuning_data import Contents
from web.fine_tuning_job import Wanted
from web.fine_tuning_object import shown
from web.learner import Learner
from web.offload import offload
from web.prompts import Tokenizers

_AT_ONCE = threading.BoundedSemaphore(
    2
)  # of one process: each keeps a processor busy for as long as it reads
_UNMEASURED: tuple[Precision, ...] = ("fp32",)


@dataclass(frozen=True)
class Host:
    """What the trainers said of themselves."""

    precisions: tuple[Precision, ...]
    speeds: Mapping[str, float | None]  # floating-point operations per second, by precision

    @classmethod
    def read(cls, connection: Connection) -> "Host":
        """Those that are there; none may be."""
        found = tuple(trainers.precisions(connection))
        return cls(found, {one: trainers.fastest(connection, one) for one in found})

    def precision(self, asked: str) -> Precision:
        """In what will be multiplied, as far as one can tell."""
        known = self.precisions or _UNMEASURED
        return plan.precision(asked, known if asked == "auto" else (*known, asked))


def rehearse(
    here: Backend, wanted: Wanted, given: Mapping[str, FileRecord], host: Host, model: str
) -> dict[str, Any]:
    """The object that answers a dry run.

    Raises:
        BadRequest: a file that cannot be trained on, with its lines.
        Unavailable: others are being made.
    """
    watch = _Watch(client.current())
    with _alone():
        contents = {
            param: offload(_read, here.artifacts, here.tokenizers, param, file, wanted, watch)
            for param, file in given.items()
        }
        return offload(_rehearsed, wanted, contents, host, model)


class _Watch:
    """Looks every second whether the client still listens."""

    def __init__(self, listener: client.Connection) -> None:
        self._listener = listener
        self._look_at = 0.0

    def __call__(self) -> None:
        """Raises Unavailable, which nobody hears."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + 1
            if self._listener.gone():
                raise Unavailable("The client has gone.", code="client_gone")

    def stopped(self) -> bool:
        """As `file_validation.validate` asks."""
        self()
        return False


@contextmanager
def _alone() -> Iterator[None]:
    if not _AT_ONCE.acquire(blocking=False):
        said = "Other dry runs are being read. Try again in a few seconds."
        raise Unavailable(said, code="dry_run_busy", retry_after=5)
    try:
        yield
    finally:
        _AT_ONCE.release()


def _read(
    store: ArtifactStore,
    tokenizers: Tokenizers,
    param: str,
    file: FileRecord,
    wanted: Wanted,
    watch: _Watch,
) -> Contents:
    """What a file is to the model, whether the clerk has validated it yet or not."""
    if file.status == "error":
        raise _wrong(param, file.id, file.errors or [], len(file.errors or []))
    block = wanted.learner.block(wanted.work)
    try:
        with store.open(file.artifact) as stream:
            if file.status == "uploaded":
                _, found, count = file_validation.validate(file, stream, watch.stopped)
                if count:
                    raise _wrong(param, file.id, [flaw.row() for flaw in found], count)
                stream.seek(0)
            contents = data.read(stream, file.filename, wanted.learner, tokenizers, block, watch)
    except FileNotFoundError:
        raise _wrong(param, file.id, [{"message": "Its bytes are gone. Upload it again."}], 1) from None
    flaws, count = data.verdict(contents, param, wanted.work, block)
    if count:
        raise _wrong(param, file.id, flaws, count)
    return contents


def _wrong(param: str, file_id: str, flaws: Any, count: int) -> BadRequest:
    error = finetunes.wrong_file(param, file_id, flaws, count)
    return BadRequest(str(error), param=param, code=error.code)


def _rehearsed(wanted: Wanted, contents: Mapping[str, Contents], host: Host, model: str) -> dict[str, Any]:
    work, learner = wanted.work, wanted.learner
    made: dict[str, Any] = {
        "object": "fine_tuning.job.dry_run",
        "model": model,
        "parameters": learner.shape.parameters,
        "trainable_parameters": plan.trainable(work, learner.shape),
        "checkpoint_bytes": plan.checkpoint_bytes(learner.shape, work),
    }
    if learner.tokenizer is None:
        said = (
            "How many tokens the file has is known once the tokenizer was made of it, which the trainer does."
        )
        unknown = (
            "examples",
            "tokens",
            "trained_tokens",
            "steps",
            "padding",
            "memory_bytes",
            "duration_seconds",
        )
        asked = shown(work.hyperparameters.model_dump(mode="json"), work.adapter)
        return made | dict.fromkeys(unknown) | {"hyperparameters": asked, "warnings": [said]}
    block = learner.block(work)
    corpus = data.corpus_of(contents["training_file"], work, block)
    precision = host.precision(work.hyperparameters.precision)
    decided = plan.decide(work, learner.shape, corpus, precision)
    operations = plan.operations(decided, learner.shape, work.adapter)
    speed = host.speeds.get(precision)
    return made | {
        "examples": corpus.examples,
        "tokens": corpus.tokens,
        "trained_tokens": round(corpus.tokens * decided.total_steps / decided.steps_per_epoch),
        "steps": decided.total_steps,
        "padding": round(packing.padding(corpus.tokens, corpus.rows, block), 4),
        "hyperparameters": shown(decided.hyperparameters, work.adapter),
        "memory_bytes": plan.memory(decided, learner.shape, work.adapter),
        "duration_seconds": None if speed is None else round(operations / speed, 1),
        "warnings": list(_warnings(wanted, contents, decided, learner, host, speed)),
    }


def _warnings(
    wanted: Wanted,
    contents: Mapping[str, Contents],
    decided: Plan,
    learner: Learner,
    host: Host,
    speed: float | None,
) -> Iterator[str]:
    block = decided.hyperparameters["block_size"]
    if not host.precisions:
        yield "No trainer is there: the precision is a guess, and the duration is unknown."
    elif speed is None:
        yield "No trainer has measured itself in this precision yet, so the duration is unknown."
    for param, found in contents.items():
        if found.cut:
            many = "1 example" if found.cut == 1 else f"{found.cut:,} examples"
            yield (
                f"In {many} of the {param} the beginning of the prompt will be cut off, since prompt and "
                f"answer do not fit a block of {block:,} tokens. A larger 'block_size' keeps more."
            )
    if wanted.work.validation_file is None and not data.held_out(
        contents["training_file"], wanted.work, block
    ):
        yield "There is too little data to evaluate with some of it, so there will be no validation loss."
    if rendering.is_rendered(contents["training_file"].layout) and learner.chat_template is None:
        yield "The model has no chat template, so what it learns here is written as Penstock's own."
