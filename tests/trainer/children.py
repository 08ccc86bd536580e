"""Real training processes for tests, forked from one that has imported torch and transformers already."""

import hashlib
import multiprocessing
import os
import random
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.finetune_input import Architecture
from trainer import checkpoint
from trainer.spec import SPEC, STOP, Data, Spec
from trainer.words import FIFO, WORD, Word

DEADLINE = 60.0
SHAPE = Architecture(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=300)
NOUNS = [
    "river",
    "mill",
    "stone",
    "water",
    "gate",
    "wheel",
    "keeper",
    "grain",
    "field",
    "road",
    "bridge",
    "tower",
    "bell",
    "wind",
]
VERBS = ["turns", "holds", "feeds", "crosses", "guards", "carries", "breaks", "follows"]

_forks = multiprocessing.get_context("forkserver")


def prose(sentences: int = 300, seed: int = 0) -> str:
    """A text with something to learn in it."""
    draw = random.Random(seed)
    lines = (
        f"the {draw.choice(NOUNS)} {draw.choice(VERBS)} the {draw.choice(NOUNS)}." for _ in range(sentences)
    )
    return "\n".join(lines) + "\n"


def data_of(path: Path, text: str) -> Data:
    """A file to train on."""
    path.write_text(text)
    return Data(path=path, filename=path.name, sha256=hashlib.sha256(text.encode()).hexdigest())


def spec_of(folder: Path, text: str | None = None, name: str = "prose.txt", **changes: Any) -> Spec:
    """A small training from scratch, or what the changes make of it."""
    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {
        "folder": folder,
        "attempt": 1,
        "device": "cpu",
        "threads": 1,
        "model": None,
        "base_name": "tiny",
        "init": "scratch",
        "architecture": SHAPE,
        "tokenizer": None,
        "adapter": "full",
        "training": data_of(folder.parent / name, prose() if text is None else text),
        "validation": None,
        "seed": 7,
        "hyperparameters": {},
        "resume": None,
    }
    return Spec.model_validate(given | changes)


def resumed(spec: Spec) -> Spec:
    """The next attempt: from the newest checkpoint that verifies, as the trainer would."""
    steps = checkpoint.verified(spec.folder)
    resume = checkpoint.folder_of(spec.folder, steps[0]) if steps else None
    return spec.model_copy(update={"attempt": spec.attempt + 1, "resume": resume})


class Child:
    """A training that runs, and what it has said so far."""

    def __init__(self, spec: Spec) -> None:
        self.folder = spec.folder
        (self.folder / SPEC).write_text(spec.model_dump_json())
        (self.folder / STOP).unlink(missing_ok=True)
        (self.folder / FIFO).unlink(missing_ok=True)
        os.mkfifo(self.folder / FIFO)
        self._fifo = os.open(self.folder / FIFO, os.O_RDWR | os.O_NONBLOCK)
        self._begun = b""
        self.words: list[Word] = []
        self._process = _forks.Process(target=_run, args=(spec.folder,), daemon=True)
        self._process.start()

    def until(self, wanted: Callable[[Word], bool]) -> Word:
        """Wait for a word; fails where the child ends without it."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            ended = not self._process.is_alive()
            for word in self._hear():
                self.words.append(word)
                if wanted(word):
                    return word
            if ended:
                break
        raise AssertionError(f"it did not say that, but {self.words[-3:]}:\n{self.log}")

    def end(self, code: int = 0) -> Word:
        """Wait for its end; return its last word."""
        self._process.join(DEADLINE)
        self.words += self._hear()
        assert self._process.exitcode == code, self.log
        os.close(self._fifo)
        return self.words[-1]

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()
        self.words += self._hear()
        os.close(self._fifo)

    def stop(self) -> None:
        """Ask it to."""
        (self.folder / STOP).touch()

    def said(self, kind: type[Word]) -> list[Any]:
        """The words of a kind."""
        return [word for word in self.words if isinstance(word, kind)]

    @property
    def log(self) -> str:
        """What it wrote beside its words."""
        return (self.folder / "child.log").read_text()

    def _hear(self) -> Iterator[Word]:
        if not select.select([self._fifo], [], [], 0.05)[0]:
            return iter(())
        *lines, self._begun = (self._begun + os.read(self._fifo, 1 << 16)).split(b"\n")
        return iter([WORD.validate_json(line) for line in lines])


def run(spec: Spec) -> Child:
    """A child from its beginning to its end."""
    child = Child(spec)
    child.end()
    return child


def result_hashes(spec: Spec) -> dict[str, str]:
    """The SHA-256 of every file of the result."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (spec.folder / "result").iterdir()
    }


def _run(folder: Path) -> None:
    from trainer import run

    log = os.open(folder / "child.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    run.main(folder)
