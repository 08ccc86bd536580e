"""Brings together what a training learns from: the foundation, the rows, and those to evaluate with."""

import dataclasses
import time
from collections.abc import Callable

from jobs import plan, rendering
from jobs.errors import InvalidTrainingFile, InvalidValidationFile, ModelUnavailable
from jobs.rendering import Reader
from trainer import foundation, tokenizing
from trainer.dataset import Corpus, Rows, key_of, prepare, split
from trainer.foundation import Foundation
from trainer.spec import Spec

DATA = "data"  # the folder of tokenized files in the job's
_SECONDS = 0.5  # between two looks whether a stop is asked for


@dataclasses.dataclass(frozen=True)
class Materials:
    """Read from files, the same in every process of a training."""

    foundation: Foundation
    rows: Rows
    held_out: Rows | None  # None: too little to hold something out
    key: str  # of the data

    @property
    def examples(self) -> int:
        """How many of them are trained on; of what may be cut, all that rows are cut from."""
        if self.rows.corpus.facts.divisible:
            return len(self.rows.corpus.starts) - 1
        return sum(len(row) for row in self.rows.rows)


def gather(spec: Spec, alive: Callable[[], None]) -> Materials:
    """Read the model's surroundings and tokenize the files; what an attempt before did is not done again.

    `alive` is called every now and then and may raise. Raises ModelUnavailable, InvalidTrainingFile,
    InvalidValidationFile.
    """
    base = foundation.lay(spec)
    with spec.training.path.open("rb") as stream:
        layout = rendering.layout(stream, spec.training.filename)
    template = rendering.template_for(layout, base.chat_template)
    base = dataclasses.replace(base, chat_template=template)
    try:
        block = plan.block_size(spec.hyperparameters.block_size, base.shape)
    except ValueError as error:
        raise ModelUnavailable(f"'block_size' is too large: {error}.") from error
    reader = Reader(
        tokenizer=base.tokenizer,
        eos_token_id=base.eos_token_id,
        vocab_size=base.config.vocab_size,
        chat_template=None if template is None else tokenizing.named(template, base.tokenizer_config),
        block_size=block,
    )
    seldom = _seldom(alive)
    folder, packed = spec.folder / DATA, spec.hyperparameters.packing
    learned = prepare(spec.training, reader, folder / "training", InvalidTrainingFile, seldom)
    keys = [key_of(spec.training, reader)]
    if spec.validation is None:
        rows, held_out = split(learned, block, packed, spec.seed, plan.held_out)
    else:
        judged = prepare(spec.validation, reader, folder / "validation", InvalidValidationFile, seldom)
        keys.append(key_of(spec.validation, reader))
        rows, held_out = _all(learned, spec, block), _all(judged, spec, block)
    return Materials(base, rows, held_out if len(held_out) else None, " ".join(keys))


def _all(corpus: Corpus, spec: Spec, block: int) -> Rows:
    rows, _ = split(corpus, block, spec.hyperparameters.packing, spec.seed, lambda _: 0)
    return rows


def _seldom(alive: Callable[[], None]) -> Callable[[], None]:
    last = 0.0

    def call() -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            alive()

    return call
