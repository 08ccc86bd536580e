"""Makes a folder that a child wrote a version in the catalog: its files in the store, its facts in a row."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jobs import catalog, digests, files
from jobs.artifacts import ArtifactStore
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.published import Published
from trainer import tokenizing
from trainer.bases import Base
from trainer.workplace import Prepared

_ADAPTER = "adapter_config.json"
_TEMPLATE = "chat_template.jinja"
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    _TEMPLATE,
)
"""What a worker needs of a folder; a checkpoint's holds more."""
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")


@dataclass(frozen=True)
class Trained:
    """What is known of the weights in a folder."""

    parameters: int
    steps: int
    trained_tokens: int
    metrics: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]


def name_of(prepared: Prepared, job_id: str, step: int | None = None) -> str:
    """The name of the model that a job makes, or of a checkpoint on the way there."""
    root = prepared.base.root if prepared.base else prepared.model
    short = job_id.removeprefix("ftjob-")[:12]
    name = f"{catalog.FINE_TUNED}{root}:org-{prepared.owner_id}:{prepared.work.suffix or ''}:{short}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def keep_all(database: Database, store: ArtifactStore, folder: Path) -> dict[str, str]:
    """Put every file of a folder into the store; return path: artifact.

    Raises:
        StorageFailed: there is no room, or the store is out of reach.
        DatabaseUnavailable: nobody was told that the files come.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): files.keep_file(database, store, path) for path in paths}


def version(
    folder: Path, name: str, held: Mapping[str, str], prepared: Prepared, job_id: str, trained: Trained
) -> Published:
    """The row of the model in a folder whose files are kept already."""
    is_adapter = (folder / _ADAPTER).is_file()
    shape_of = prepared.base.folder if is_adapter and prepared.base else folder
    config = json.loads((shape_of / "config.json").read_bytes())
    of_model = {path: held[path] for path in _MODEL_FILES if path in held}
    return Published(
        version=ModelVersion(
            name=name,
            digest=_digest(folder, of_model, prepared.base if is_adapter else None),
            quantization="fp32",
            parameters=trained.parameters,
            context=config["n_positions"],
            vocab_size=config["vocab_size"],
            eos_token_id=_first(config["eos_token_id"]),
            tokenizer=held["tokenizer.json"],
            chat_template=_template(folder),
            slots=1,
        ),
        owner_id=prepared.owner_id,
        job_id=job_id,
        lineage=_lineage(prepared, job_id, trained),
        base=prepared.model if is_adapter else None,
        files=of_model,
    )


def _template(folder: Path) -> str | None:
    """As a worker would read it: behind the special tokens that it may name."""
    template = tokenizing.chat_template(folder)
    return None if template is None else tokenizing.named(template, tokenizing.config_of(folder))


def _digest(folder: Path, held: Mapping[str, str], under: Base | None) -> str:
    """As a worker reckons it; `under` is the model under an adapter."""
    if under is not None:
        return digests.of_adapter(held, under.digest)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return digests.of_model(held, digests.tokenizer_json(tokenizer))


def _lineage(prepared: Prepared, job_id: str, trained: Trained) -> dict[str, Any]:
    work, base = prepared.work, prepared.base
    return {
        "job": job_id,
        "base": prepared.model if base else None,
        "root": base.root if base else prepared.model,
        "base_digest": base.digest if base else None,
        "init": work.init,
        "adapter": work.adapter,
        "training_file": work.training_file,
        "validation_file": work.validation_file,
        **prepared.sources,
        "seed": work.seed,
        "hyperparameters": dict(trained.hyperparameters),
        "steps": trained.steps,
        "trained_tokens": trained.trained_tokens,
        "metrics": dict(trained.metrics),
        "code": {name: metadata.version(name) for name in _PACKAGES},
    }


def _first(found: Any) -> int:
    return int(found[0] if isinstance(found, list) else found)
