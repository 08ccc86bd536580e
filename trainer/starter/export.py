"""Writes the folder that the project loads: weights, tokenizer, config and the facts of the run."""

import copy
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from trainer.starter import tokenizer as bpe

FACTS = "training.json"


@dataclass(frozen=True)
class Facts:
    """What the model card says about the training; files, bytes and tokens are [learned from, held out]."""

    python: str
    hardware: str
    seed: int
    files: tuple[int, int]
    bytes: tuple[int, int]
    tokens: tuple[int, int]
    parameters: int
    steps: int
    tokens_seen: int
    seconds: float  # of wall clock, over all runs
    commands: tuple[str, ...]  # that trained it, in order


def write(model: GPT2LMHeadModel, tokenizer: Tokenizer, facts: Facts, folder: Path) -> None:
    """Replace the files of `folder` one by one, each in one move: a reader never sees half a file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        plain = copy.deepcopy(model).bfloat16()
        plain.config.use_cache = True
        plain.save_pretrained(aside)
        bpe.save(tokenizer, aside)
        (aside / FACTS).write_text(json.dumps(asdict(facts), indent=2) + "\n")
        folder.mkdir(exist_ok=True)
        for path in aside.iterdir():
            path.chmod(0o644)  # whoever runs a worker must be able to read it
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(aside)


def read_facts(folder: Path) -> Facts:
    """The facts that `write` left in this folder."""
    values = json.loads((folder / FACTS).read_text())
    tuples = {name: tuple(values[name]) for name in ("files", "bytes", "tokens", "commands")}
    return Facts(**{**values, **tuples})
