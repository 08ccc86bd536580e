import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import checkpoint
from trainer.checkpoint import MANIFEST


def made(job: Path, step: int) -> Path:
    aside = job / "tmp-1"
    (aside / "adapter").mkdir(parents=True)
    (aside / "model.safetensors").write_bytes(os.urandom(1000) + bytes([step]))
    (aside / "adapter" / "weights").write_bytes(b"below")
    return checkpoint.seal(aside, job, step)


def test_a_checkpoint_is_whole_once_it_is_sealed(tmp_path: Path) -> None:
    folder = made(tmp_path, 3)
    assert folder == tmp_path / "checkpoint-3"
    assert not (tmp_path / "tmp-1").exists()
    manifest = json.loads((folder / MANIFEST).read_bytes())
    assert manifest["step"] == 3
    assert manifest["files"]["model.safetensors"]["bytes"] == 1001
    assert checkpoint.is_whole(folder)


def flipped(folder: Path) -> None:
    whole = bytearray((folder / "model.safetensors").read_bytes())
    whole[500] ^= 1
    (folder / "model.safetensors").write_bytes(whole)


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 999)


def without_a_file(folder: Path) -> None:
    (folder / "adapter" / "weights").unlink()


def with_another_file(folder: Path) -> None:
    (folder / "stray").write_bytes(b"")


def without_a_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def with_half_a_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 40)


def of_another_step(folder: Path) -> None:
    folder.rename(folder.with_name("checkpoint-9"))


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        cut,
        without_a_file,
        with_another_file,
        without_a_manifest,
        with_half_a_manifest,
        of_another_step,
    ],
)
def test_a_damaged_checkpoint_falls_back_one(damage: Callable[[Path], None], tmp_path: Path) -> None:
    for step in (2, 10, 4):
        made(tmp_path, step)
    assert checkpoint.verified(tmp_path) == [10, 4, 2]
    damage(tmp_path / "checkpoint-10")
    assert checkpoint.verified(tmp_path) == [4, 2]


def test_one_that_did_not_verify_is_made_again(tmp_path: Path) -> None:
    flipped(made(tmp_path, 2))
    made(tmp_path, 2)
    assert checkpoint.verified(tmp_path) == [2]


def test_the_newest_stay_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        made(tmp_path, step)
    assert checkpoint.surplus(tmp_path, keep=2, best=2) == [3, 1]
    assert checkpoint.surplus(tmp_path, keep=2, best=None) == [3, 2, 1]
    checkpoint.remove(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [5, 4, 3, 2]


def test_what_was_cut_short_is_swept(tmp_path: Path) -> None:
    made(tmp_path, 1)
    (tmp_path / "tmp-4").mkdir()
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_the_parent_needs_no_torch_to_read_checkpoints() -> None:
    code = "import sys, trainer.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
