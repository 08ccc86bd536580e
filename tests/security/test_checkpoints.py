"""Checkpoints that somebody wrote to: none is believed, and none runs code, not even a well forged one."""

import ast
import importlib.metadata
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.security.test_models import Evil
from tests.trainer.children import Child, resumed, spec_of
from trainer import checkpoint
from trainer.spec import Spec
from trainer.words import FIFO, Saved

FLOORS = {
    "torch": (2, 10, 0),  # CVE-2026-24747, CVE-2025-32434: weights_only could be got around
    "transformers": (5, 5, 0),  # CVE-2026-4372, CVE-2026-5241: trust_remote_code=False could be
    "gunicorn": (27, 0, 1),  # request smuggling
    "safetensors": (0, 5, 0),
    "jinja2": (3, 1, 6),  # CVE-2025-27516: out of the sandbox
}


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@pytest.mark.parametrize("package", FLOORS)
def test_no_release_with_a_known_way_out_is_installed(package: str) -> None:
    assert version(importlib.metadata.version(package)) >= FLOORS[package]
    pins = re.findall(rf"(?im)^{package}(?:\[\w+\])?==([\d.]+)", (ROOT / "requirements.txt").read_text())
    assert [version(pin) >= FLOORS[package] for pin in pins] == [True]


READERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "compile", "__import__"}


def test_nothing_of_ours_unpickles_or_runs_text() -> None:
    found = []
    for room in ("jobs", "web", "worker", "trainer", "stack", "ops"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Import(names=names) if READERS & {name.name for name in names}:
                        found.append((path, "import"))
                    case ast.ImportFrom(module=module) if module in READERS:
                        found.append((path, "import"))
                    case ast.Call(func=ast.Name(id=name)) if name in RUNNERS:
                        found.append((path, name))
                    case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
                        found.append((path, "torch.load"))
                    case ast.keyword(arg="allow_pickle" | "trust_remote_code"):
                        found.append((path, "keyword"))
                    case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                        found.append((path, "shell"))
    assert found == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """A training that was killed after a checkpoint."""
    folder = tmp_path_factory.mktemp("trainings") / "job"
    spec = spec_of(folder, hyperparameters={"save_steps": 2, "max_steps": 40})
    child = Child(spec)
    child.until(lambda word: isinstance(word, Saved))
    child.kill()
    return spec


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_forged_checkpoint_runs_no_code(trained: Spec, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(trained.folder, tmp_path / "job", ignore=shutil.ignore_patterns(FIFO))
    spec = trained.model_copy(update={"folder": Path(copy)})
    step = checkpoint.verified(spec.folder)[0]
    folder, mark = checkpoint.folder_of(spec.folder, step), tmp_path / "run"
    assert (folder / name).exists()
    torch.save({"state": Evil(mark), "param_groups": Evil(mark)}, folder / name)
    assert step not in checkpoint.verified(spec.folder), "that much is seen without opening it"
    (folder / checkpoint.MANIFEST).unlink()
    aside = folder.rename(spec.folder / "forged")
    checkpoint.seal(aside, spec.folder, step)
    assert step in checkpoint.verified(spec.folder)
    child = Child(resumed(spec))
    child._process.join(60)
    assert not mark.exists()
    assert child._process.exitcode != 0
    assert "weights_only" in child.log or "WeightsUnpickler" in child.log or "Unsupported" in child.log
