"""What a training file is to the model that learns from it: its tokens, and what cannot be learned."""

import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from jobs import packing, plan, rendering, training_data
from jobs.finetune_input import FinetuneInput
from jobs.lines import Flaw
from jobs.plan import Corpus
from jobs.training_data import Layout
from web.learner import Learner
from web.prompts import Tokenizers

_KEPT = 100  # flaws of one file


class Stopped(Exception):
    """Nobody wants to know any more; the file was not read to its end."""


@dataclass
class Contents:
    """A file as it was read so far."""

    layout: Layout
    lengths: "array[int]" = field(default_factory=lambda: array("L"))  # tokens of each document or example
    cut: int = 0  # examples whose prompt does not fit the block whole
    flaws: list[Flaw] = field(default_factory=list)  # the first of them
    wrong: int = 0  # how many there are

    @property
    def divisible(self) -> bool:
        """Whether it may be cut anywhere."""
        return rendering.divisible(self.layout)


def read(
    stream: BinaryIO,
    filename: str,
    learner: Learner,
    tokenizers: Tokenizers,
    block: int,
    go_on: Callable[[], None] = lambda: None,
) -> Contents:
    """Read a file to its end, whatever is in it, in memory of eight bytes an example.

    `go_on` is called for each and may raise Stopped. A learner without a tokenizer has only its layout.
    """
    layout = training_data.layout_in(stream, filename) or Layout.TEXT
    found = Contents(layout)
    if learner.tokenizer is None:
        return found
    for one in rendering.encode(stream, filename, learner.reader(tokenizers, layout, block)):
        go_on()
        if isinstance(one, Flaw):
            found.wrong += 1
            if len(found.flaws) < _KEPT:
                found.flaws.append(one)
        elif one.begins:
            found.lengths.append(len(one.tokens))
            found.cut += one.cut
        else:
            found.lengths[-1] += len(one.tokens)
    return found


def held_out(found: Contents, work: FinetuneInput, block: int) -> int:
    """How many of its rows, or of its examples, are kept to evaluate, if no other file is."""
    if work.validation_file is not None:
        return 0
    if found.divisible:
        return plan.held_out(packing.cut_rows(found.lengths, block, work.hyperparameters.packing))
    return plan.held_out(len(found.lengths))


def verdict(
    found: Contents, param: str, work: FinetuneInput, block: int
) -> tuple[Sequence[Mapping[str, Any]], int]:
    """What keeps a file from being trained on, as rows of `files.errors`, and how much that is in all."""
    flaws, count = found.flaws, found.wrong
    if not count and param == "training_file" and (flaw := _too_little(found, work, block)):
        flaws, count = [flaw], 1
    return [flaw.row() for flaw in flaws], count


def _too_little(found: Contents, work: FinetuneInput, block: int) -> Flaw | None:
    """What to say of data too little to evaluate with some of it, where that was asked for."""
    asked = work.hyperparameters
    name = (
        "early_stopping_patience" if asked.early_stopping_patience is not None else "load_best_model_at_end"
    )
    wanted = asked.early_stopping_patience is not None or asked.load_best_model_at_end
    if not wanted or work.validation_file is not None or not found.lengths or held_out(found, work, block):
        return None
    what = f"rows of {block:,} tokens" if found.divisible else "examples"
    said = f"'{name}' needs data to evaluate with, but the file has too few {what} to keep some out of the "
    said += "training. Send a 'validation_file', or leave it out."
    return Flaw("no_validation_data", said)


def corpus_of(found: Contents, work: FinetuneInput, block: int) -> Corpus:
    """What is trained on: the trainer draws the same to evaluate with, and packs the same."""
    packed, held = work.hyperparameters.packing, held_out(found, work, block)
    draw = random.Random(work.seed)
    if found.divisible:
        rows = packing.cut_rows(found.lengths, block, packed)
        sizes = _sizes(found.lengths, block, packed)
        lost = sum(sizes(row) for row in draw.sample(range(rows), held))
        return Corpus(len(found.lengths), sum(found.lengths) - lost, rows - held)
    out = set(draw.sample(range(len(found.lengths)), held))
    lengths = [length for index, length in enumerate(found.lengths) if index not in out]
    return Corpus(len(lengths), sum(lengths), len(packing.rows(lengths, block)) if packed else len(lengths))


def _sizes(lengths: Sequence[int], block: int, packed: bool) -> Callable[[int], int]:
    """The tokens of a row of what may be cut."""
    if packed:
        total = sum(lengths)
        return lambda row: min(block, total - row * block)
    apart = [min(block, length - begin) for length in lengths for begin in range(0, length, block)]
    return apart.__getitem__
