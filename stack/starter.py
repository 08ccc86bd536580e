"""`make starter`: trains the starter model again, as a fine-tuning job from scratch in a stack of its own."""

import argparse
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from jobs.errors import BadSetting
from stack import private
from stack.api import Client, Refused
from stack.private import StackFailed
from trainer.starter import corpus
from trainer.starter.corpus import SEED, Document

JOB = "job.json"
"""Beside the exported folder: the job as the API shows it in the end."""
FOLDER = "exported"

_DONE = {"succeeded", "failed", "cancelled"}
_NOT_MODELS = "space"  # of what an export holds


class TrainingFailed(Exception):
    """The job did not end with a model."""


def ask(client: Client, parts: corpus.Corpus, hyperparameters: dict[str, Any], preset: str) -> str:
    """Upload both parts of the corpus and create the job; return its id."""
    learned = client.upload("train.jsonl", _lines(parts.train), "fine-tune")
    judged = client.upload("held-out.jsonl", _lines(parts.held_out), "fine-tune")
    body = {
        "model": "python",  # no model of that name: the tokenizer is trained on the file
        "init": "scratch",
        "architecture": preset,
        "training_file": learned,
        "validation_file": judged,
        "suffix": "starter",
        "seed": SEED,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }
    return str(client.call("POST", "/v1/fine_tuning/jobs", body)["id"])


def watch(client: Client, job_id: str) -> dict[str, Any]:
    """Print what the job says as it says it; return it in the end."""
    seen: list[str] = []
    while True:
        job = client.call("GET", f"/v1/fine_tuning/jobs/{job_id}")
        page = client.call("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit=100")["data"]
        for event in reversed(page):
            if event["id"] not in seen:
                seen = [*seen[-200:], event["id"]]
                print(event["message"], flush=True)
        if job["status"] in _DONE:
            return job
        time.sleep(1)


def fetch(client: Client, model: str, folder: Path) -> None:
    """Export a model and unpack its files into a folder."""
    path = f"/v1/models/{model}/export"
    export = client.call("POST", path)
    while export["status"] not in _DONE:
        export = client.call("GET", f"{path}s/{export['id']}?wait=30")
    if export["status"] != "succeeded":
        raise TrainingFailed(f"the export failed: {export['error']}")
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder.with_suffix(".zip")
    client.download(export["file_id"], packed)
    with zipfile.ZipFile(packed) as archive:
        for name in archive.namelist():
            if _NOT_MODELS not in Path(name).parts and not name.endswith("/"):
                (folder / Path(name).name).write_bytes(archive.read(name))
    packed.unlink()


def _lines(documents: list[Document]) -> bytes:
    return b"".join(json.dumps({"text": one.text}).encode() + b"\n" for one in documents)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("var/starter"), help="of the stack and the export")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--max-steps", type=int, help="end after so many")
    parser.add_argument("--architecture", default="starter", help="a preset")
    return parser.parse_args()


def _hyperparameters(arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {
        "n_epochs": arguments.epochs,
        "weight_decay": 0.05,
        "tokens_per_step": 4096,
        "load_best_model_at_end": True,
    }
    return found | ({"max_steps": arguments.max_steps} if arguments.max_steps else {})


def main() -> int:
    """Train, export, and leave the folder and the job for `trainer.starter.adopt`."""
    arguments = _read_arguments()
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    parts = corpus.split(corpus.read_documents(), SEED)
    try:
        with private.running(out) as stack:
            job_id = ask(stack.client, parts, _hyperparameters(arguments), arguments.architecture)
            job = watch(stack.client, job_id)
            if job["status"] != "succeeded":
                raise TrainingFailed(f"{job_id} is {job['status']}: {job['error']}")
            fetch(stack.client, job["fine_tuned_model"], out / FOLDER)
            (out / JOB).write_text(json.dumps(job, indent=2) + "\n")
    except (TrainingFailed, Refused, StackFailed, BadSetting) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
