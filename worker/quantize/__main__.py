"""Quantizes a model into folders and measures what that costs and gains: `python -m worker.quantize`."""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from tokenizers import Tokenizer

from jobs import logs
from jobs.errors import ModelUnavailable
from worker.checkpoint import read_json, read_tensors, weight_files
from worker.loading import describe, find_folder, named
from worker.model import Architecture, Network
from worker.quantize.calibration import Calibration, calibrate
from worker.quantize.codes import quantized_weight
from worker.quantize.evaluation import report_apart
from worker.quantize.methods import METHODS, Method, choose_method, known_method
from worker.quantize.saved import Saved, parts, read_saved, save
from worker.quantize.table import Circumstances, write_table
from worker.quantize.weights import Weight

CALIBRATED = ("int8_static", "int4_weight")
SECONDS = 2.0  # between two lines that say how far it has come


@dataclass(frozen=True)
class Task:
    """What the command line asks for, checked."""

    source: str
    folder: Path  # of the original
    architecture: Architecture
    tokenizer: Tokenizer
    digest: str  # of the original
    methods: list[Method]
    calibrate: Path | None
    evaluate: Path | None
    out: Path
    device: str  # that is measured on

    def place(self, method: Method) -> Path:
        """The folder of a method: `out` itself when it is the only one."""
        return self.out if len(self.methods) == 1 else self.out / method


def main() -> int:
    """Run the command; 2 after a sentence about what cannot be done."""
    logs.configure("quantize", "WARNING")
    try:
        run(read_task(parse()))
    except ModelUnavailable as error:
        print(error, file=sys.stderr)  # noqa: T201
    except OSError as error:
        print(f"A file cannot be read or written: {error}.", file=sys.stderr)  # noqa: T201
    else:
        return 0
    return 2


def parse() -> argparse.Namespace:
    """The arguments as they are."""
    parser = argparse.ArgumentParser(prog="python -m worker.quantize", description=__doc__)
    parser.add_argument("source", help="a GPT-2 folder in Hugging Face layout, or a Hub id")
    parser.add_argument("--method", required=True, help=f"one or more of {','.join(METHODS)}")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help=f"text for {' and '.join(CALIBRATED)}")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="text for the table; without it none")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="missing or empty")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="that the table is of")
    return parser.parse_args()


def read_task(given: argparse.Namespace) -> Task:
    """Check everything before any work. Raises ModelUnavailable."""
    methods = [known_method(name) for name in dict.fromkeys(given.method.split(","))]
    _check_files(given, methods)
    with named(given.source):
        folder = find_folder(given.source)
        if read_saved(read_json(folder / "config.json")):
            raise ModelUnavailable("it is quantized already; give the model that it came from.")
    described = describe(str(folder), "fp32", "cpu")
    for method in methods:
        parts(described.architecture, method)
        if given.evaluate:
            choose_method(method, given.device)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise ModelUnavailable("--device cuda: there is no CUDA device here; use cpu.")
    for file in filter(None, (given.calibrate, given.evaluate)):
        if len(described.tokenizer.encode(read_text(file)[:1000]).ids) < 2:
            raise ModelUnavailable(f"{file}: it has fewer than two tokens; give a longer text.")
    return Task(
        source=given.source,
        folder=folder,
        architecture=described.architecture,
        tokenizer=described.tokenizer,
        digest=described.digest,
        methods=methods,
        calibrate=given.calibrate,
        evaluate=given.evaluate,
        out=given.out.resolve(),
        device=given.device,
    )


def _check_files(given: argparse.Namespace, methods: list[Method]) -> None:
    for file in (given.calibrate, given.evaluate):
        if file is not None:
            read_text(file)
    if given.calibrate is None and "int8_static" in methods:
        raise ModelUnavailable("int8_static needs --calibrate FILE, a text like those to come.")
    if given.calibrate is not None and not set(CALIBRATED) & set(methods):
        raise ModelUnavailable(f"--calibrate is for {' and '.join(CALIBRATED)} only; leave it out.")
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        raise ModelUnavailable(f"{given.out} is there already; name a folder that is missing or empty.")


def read_text(path: Path) -> str:
    """A file's text. Raises ModelUnavailable."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelUnavailable(f"{path}: it cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ModelUnavailable(f"{path}: it is not UTF-8 text.") from error
    if not text.strip():
        raise ModelUnavailable(f"{path}: it is empty.")
    return text


def run(task: Task) -> None:
    """Write every folder, then measure each beside the fp32 original."""
    calibration = _calibration(task)
    folders = {method: task.place(method) for method in task.methods}
    for method, folder in folders.items():
        _write(task, method, folder, calibration)
    if task.evaluate is None:
        return
    with ExitStack() as stack:
        if "fp32" not in folders:
            aside = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=task.out, prefix=".original-")))
            _write(task, "fp32", aside / "fp32", None)
            folders["fp32"] = aside / "fp32"
        reports = []
        for method in sorted(folders, key=METHODS.index):  # fp32 first: the others are compared with it
            say(f"measuring {method} on {task.evaluate}: size, loss, speed")
            reports.append(report_apart(folders[method], task.evaluate, task.device))
    say("\n" + write_table(task.out, _circumstances(task, task.evaluate), reports))


def _calibration(task: Task) -> Calibration | None:
    if task.calibrate is None:
        return None
    say(f"calibrating on {task.calibrate}")
    tokens = task.tokenizer.encode(read_text(task.calibrate), add_special_tokens=False).ids
    network = Network.build(task.architecture, _weights(task, "fp32", None), "fp32", "cpu")
    return calibrate(network, tokens, "int4_weight" in task.methods, Teller("pieces of text"))


def _write(task: Task, method: Method, out: Path, calibration: Calibration | None) -> None:
    say(f"writing {method} to {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = _weights(task, method, calibration)
    text = _sha256(task.calibrate) if task.calibrate and method in CALIBRATED else None
    save(task.folder, out, weights, Saved(method=method, source=task.digest, calibration=text))


def _weights(task: Task, method: Method, calibration: Calibration | None) -> dict[str, Weight]:
    ranges, moments = (calibration.ranges, calibration.moments) if calibration else (None, None)
    told, of = Teller("tensors"), len(task.architecture.shapes())
    found = {}
    with named(task.source):
        for name, tensor in read_tensors(weight_files(task.folder), task.architecture):
            found[name] = quantized_weight(task.architecture, name, tensor, method, ranges, moments)
            told(len(found), of)
    return found


def _circumstances(task: Task, text: Path) -> Circumstances:
    return Circumstances(
        source=task.source,
        digest=task.digest,
        text=text.name,
        text_sha256=_sha256(text),
        calibration=task.calibrate.name if task.calibrate else None,
        calibration_sha256=_sha256(task.calibrate) if task.calibrate else None,
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        device=torch.cuda.get_device_name() if task.device == "cuda" else "cpu",
        torch=torch.__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _processor() -> str:
    names = (
        line.partition(":")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    return next(names, "unknown processor").strip()


class Teller:
    """Says how far something has come, every few seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        """So many are done, of so many."""
        if time.monotonic() > self._said + SECONDS:
            self._said = time.monotonic()
            say(f"  {done} of {of} {self._what}")


def say(line: str) -> None:
    """Tell the person at the terminal, at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
