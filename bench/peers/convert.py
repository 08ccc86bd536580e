"""Gives each peer the model in its own format, made once and kept beside the model's folder."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from stack import ROOT

PEERS = Path(os.environ.get("PEERS", ROOT / ".venv-peers")) / "bin"


def openvino(model: Path) -> Path:
    """OpenVINO's intermediate representation with int8 weights."""
    task = ("--task", "text-generation-with-past", "--weight-format", "int8")
    return _once(
        _beside(model, "openvino"),
        lambda to: _run("optimum-cli", "export", "openvino", "--model", model, *task, to),
    )


def ctranslate2(model: Path) -> Path:
    """CTranslate2's folder with int8 weights."""
    converter = ("ct2-transformers-converter", "--quantization", "int8", "--model", model)
    return _once(_beside(model, "ctranslate2"), lambda to: _run(*converter, "--output_dir", to))


def gguf(model: Path, quantization: str) -> Path:
    """llama.cpp's file, of `q8_0` or `q4_0`."""
    folder = _once(_beside(model, "gguf"), lambda to: _run("python", "-m", "bench.peers.gguf", model, to))
    return folder / f"{quantization}.gguf"


def _beside(model: Path, name: str) -> Path:
    return model.with_name(f"{model.name}-{name}")


def _once(folder: Path, convert: Callable[[Path], None]) -> Path:
    """Convert into a folder that gets its name when it is whole."""
    if not folder.exists():
        print(f"converting to {folder}", flush=True)
        growing = folder.with_name(folder.name + ".growing")
        shutil.rmtree(growing, ignore_errors=True)
        convert(growing)
        growing.rename(folder)
    return folder


def _run(program: str, *arguments: str | Path) -> None:
    if not PEERS.exists():
        raise SystemExit(f"{PEERS} is missing; `make bench-peers` installs the peers.")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [PEERS / program, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{program} {' '.join(map(str, arguments))} failed:\n{done.stdout[-2000:]}")
