"""A corpus as rows of a block: tokenized once into files of the job's folder, then read from there."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jobs import packing, rendering
from jobs.errors import InvalidTrainingFile, InvalidValidationFile
from jobs.lines import Flaw
from jobs.rendering import Encoded, Reader
from trainer.cross_entropy import LEFT_OUT
from trainer.network import reach
from trainer.spec import Data

FORMAT = 1  # of the files
META, TOKENS, LEARNED, STARTS = "corpus.json", "tokens.bin", "learned.bin", "starts.npy"
_MOST_FLAWS = 5  # in one error

Invalid = type[InvalidTrainingFile] | type[InvalidValidationFile]


@dataclass(frozen=True)
class Facts:
    """What is known of a corpus beside its tokens."""

    key: str  # of the file's hash, the tokenizer and how it was read
    divisible: bool
    cut: int  # examples whose beginning did not fit the block
    has_answers: bool


class Corpus:
    """A tokenized file: token ids, which are learned, and where each document begins."""

    def __init__(self, folder: Path) -> None:
        self.facts = Facts(**json.loads((folder / META).read_bytes()))
        self.tokens: npt.NDArray[Any] = np.memmap(folder / TOKENS, dtype=np.uint32, mode="r")
        self.learned: npt.NDArray[Any] | None = None
        if self.facts.has_answers:
            self.learned = np.memmap(folder / LEARNED, dtype=np.bool_, mode="r")
        self.starts: npt.NDArray[Any] = np.load(folder / STARTS)  # and the end of the last

    @property
    def lengths(self) -> npt.NDArray[Any]:
        """Tokens of each document."""
        return np.diff(self.starts)


def key_of(data: Data, reader: Reader) -> str:
    """Tells corpora apart: the same file read in the same way has the same."""
    read = [reader.eos_token_id, reader.vocab_size, reader.chat_template, reader.block_size]
    facts = [
        FORMAT,
        data.sha256,
        data.filename,
        hashlib.sha256(reader.tokenizer.to_str().encode()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps([*facts, *read]).encode()).hexdigest()


def prepare(data: Data, reader: Reader, folder: Path, invalid: Invalid, alive: Callable[[], None]) -> Corpus:
    """The corpus of a file, from `folder` if it lies there already; `alive` is called every now and then.

    Raises `invalid`, naming lines.
    """
    key = key_of(data, reader)
    if (folder / META).exists() and json.loads((folder / META).read_bytes()).get("key") == key:
        return Corpus(folder)
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    facts = _write(data, reader, key, aside, invalid, alive)
    (aside / META).write_text(json.dumps(asdict(facts)))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return Corpus(folder)


def _write(
    data: Data, reader: Reader, key: str, folder: Path, invalid: Invalid, alive: Callable[[], None]
) -> Facts:
    starts, cut, size, answers = [], 0, 0, False
    with (
        data.path.open("rb") as stream,
        (folder / TOKENS).open("wb") as tokens,
        (folder / LEARNED).open("wb") as learned,
    ):
        divisible = rendering.divisible(rendering.layout(stream, data.filename))
        for one in _sound(rendering.encode(stream, data.filename, reader), invalid):
            alive()
            if one.begins:
                starts.append(size)
            cut += one.cut
            size += len(one.tokens)
            tokens.write(np.asarray(one.tokens, np.uint32).tobytes())
            if one.learned is not None:
                answers = True
                learned.write(np.asarray(one.learned, np.bool_).tobytes())
    np.save(folder / STARTS, np.asarray([*starts, size], np.int64))
    return Facts(key, divisible, cut, answers)


def _sound(found: Iterator[Encoded | Flaw], invalid: Invalid) -> Iterator[Encoded]:
    """What is no flaw. Raises `invalid` at the end of the file, or once there are several, with the flaws."""
    flaws: list[Flaw] = []
    for one in found:
        if isinstance(one, Flaw):
            flaws.append(one)
        elif not flaws:
            yield one
        if len(flaws) == _MOST_FLAWS:
            break
    if flaws:
        raise invalid("\n".join(f"Line {flaw.line}: {flaw.message}" for flaw in flaws))


class Rows(Dataset[dict[str, Tensor]]):
    """Some rows of a corpus, each one or more pieces of it that do not see each other."""

    def __init__(self, corpus: Corpus, block: int, rows: Sequence[Any]) -> None:
        self.corpus, self.block, self.rows = corpus, block, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """All of them once, without padding."""
        return sum(end - start for row in self.rows for start, end in self._pieces(row))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pieces = list(self._pieces(self.rows[index]))
        positions = [torch.arange(end - start) for start, end in pieces]
        tokens = np.concatenate([self.corpus.tokens[start:end] for start, end in pieces]).astype(np.int64)
        labels = np.concatenate([self._labels(start, end) for start, end in pieces])
        return {
            "input_ids": torch.from_numpy(tokens),
            "position_ids": torch.cat(positions),
            "labels": torch.from_numpy(labels),
        }

    def _pieces(self, row: Any) -> Iterator[tuple[int, int]]:
        """Where each piece of a row begins and ends among the corpus's tokens."""
        starts = self.corpus.starts
        if isinstance(row, list):  # of documents
            for document in row:
                yield int(starts[document]), int(starts[document + 1])
            return
        begin, end = row  # of the stream, which documents divide
        inner = starts[np.searchsorted(starts, begin, "right") : np.searchsorted(starts, end, "left")]
        borders = [begin, *map(int, inner), end]
        yield from pairwise(borders)

    def _labels(self, start: int, end: int) -> npt.NDArray[Any]:
        """The token after each, where it is of the same document and to be learned."""
        corpus = self.corpus
        labels = np.full(end - start, LEFT_OUT, np.int64)
        document_end = int(corpus.starts[np.searchsorted(corpus.starts, start, "right")])
        last = min(end + 1, document_end)  # the next row may go on with the document
        labels[: last - start - 1] = corpus.tokens[start + 1 : last]
        if corpus.learned is not None:
            labels[: last - start - 1][~corpus.learned[start + 1 : last]] = LEFT_OUT
        return labels


def split(
    corpus: Corpus, block: int, packed: bool, seed: int, hold_out: Callable[[int], int]
) -> tuple[Rows, Rows]:
    """The rows to train on, and those to evaluate with; `hold_out` says how many of so many those are.

    Rows of what may be cut are drawn, else examples are, before they are packed; the seed decides which.
    """
    if corpus.facts.divisible:
        spans = _cut(corpus, block, packed)
        kept, held = _drawn(len(spans), seed, hold_out)
        return Rows(corpus, block, [spans[one] for one in kept]), Rows(
            corpus, block, [spans[one] for one in held]
        )
    kept, held = _drawn(len(corpus.starts) - 1, seed, hold_out)
    rows = [_packed(corpus, documents, block, packed) for documents in (kept, held)]
    return Rows(corpus, block, rows[0]), Rows(corpus, block, rows[1])


def _drawn(count: int, seed: int, hold_out: Callable[[int], int]) -> tuple[list[int], list[int]]:
    held = set(random.Random(seed).sample(range(count), hold_out(count)))
    return [index for index in range(count) if index not in held], sorted(held)


def _cut(corpus: Corpus, block: int, packed: bool) -> list[tuple[int, int]]:
    size = int(corpus.starts[-1])
    spans = (
        [(0, size)] if packed else list(zip(corpus.starts.tolist(), corpus.starts[1:].tolist(), strict=False))
    )
    return [(at, min(at + block, end)) for start, end in spans for at in range(start, end, block)]


def _packed(corpus: Corpus, documents: list[int], block: int, packed: bool) -> list[list[int]]:
    if not packed:
        return [[document] for document in documents]
    lengths = corpus.lengths[documents].tolist()
    return [[documents[index] for index in row] for row in packing.rows(lengths, block)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Rows of one pass, padded to the longest; `real` counts the tokens that are no padding.

    Padding is a document of its own, of which nothing is learned.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, list[Tensor]] = {name: [] for name in ("input_ids", "position_ids", "labels")}
    for row in rows:
        missing = longest - len(row["input_ids"])
        padding = {
            "input_ids": torch.zeros(missing, dtype=torch.int64),
            "position_ids": torch.arange(missing),
            "labels": torch.full((missing,), LEFT_OUT),
        }
        for name, parts in batch.items():
            parts.append(torch.cat([row[name], padding[name]]))
    made: dict[str, Any] = {name: torch.stack(parts) for name, parts in batch.items()}
    made["reach"] = reach(made["position_ids"])
    made["real"] = sum(len(row["input_ids"]) for row in rows)
    return made
