"""Makes an exported fine-tune the starter: `python -m trainer.starter.export FROM --job FILE --out TO`.

The weights become bf16, which halves them, and the facts of the training lie beside them for the card.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from trainer.starter import corpus
from trainer.starter.corpus import Corpus

FACTS = "training.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


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
    seconds: float  # of wall clock, from the job's creation to its end
    commands: tuple[str, ...]  # that trained it, in order
    optimizer: str


def facts_of(parts: Corpus, tokenizer: Tokenizer, job: dict[str, Any], parameters: int) -> Facts:
    """What is known of the training, from the job as the API shows it."""
    both = (parts.train, parts.held_out)
    tokens = [sum(len(tokenizer.encode(one.text).ids) + 1 for one in part) for part in both]
    chosen = job["hyperparameters"]
    return Facts(
        python=platform.python_version(),
        hardware=hardware(),
        seed=job["seed"],
        files=(len(both[0]), len(both[1])),
        bytes=(corpus.size(both[0]), corpus.size(both[1])),
        tokens=(tokens[0], tokens[1]),
        parameters=parameters,
        steps=job["progress"]["step"],
        tokens_seen=job["trained_tokens"],
        seconds=job["finished_at"] - job["created_at"],
        commands=("make starter",),
        optimizer=f"AdamW (rate {chosen['learning_rate']:g}), {chosen['lr_scheduler_type']} decay",
    )


def write(source: Path, facts: Facts, folder: Path) -> None:
    """Replace the files of `folder` one by one, each in one move: a reader never sees half a file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        GPT2LMHeadModel.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(aside)
        for name in _TOKENIZER:
            shutil.copyfile(source / name, aside / name)
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


def hardware() -> str:
    """The processor in general terms."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores of an {names[0] if names else platform.machine()}, no GPU"


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="an exported model")
    parser.add_argument("--job", type=Path, required=True, help="the fine-tune that made it, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    parts = corpus.split(corpus.read_documents(), corpus.SEED)
    tokenizer = Tokenizer.from_file(str(asked.source / "tokenizer.json"))
    parameters = GPT2LMHeadModel.from_pretrained(asked.source).num_parameters()
    write(asked.source, facts_of(parts, tokenizer, json.loads(asked.job.read_text()), parameters), asked.out)


if __name__ == "__main__":
    main()
