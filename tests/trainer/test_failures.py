import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs.errors import DiskFull, OutOfMemory
from tests.trainer.children import Child, spec_of
from trainer import checkpoint, run, saver
from trainer.words import Failed, Saved

SHORT = {"batch_size": 2, "block_size": 32, "max_steps": 40, "n_epochs": 3, "save_steps": 2}


def failure(child: Child) -> Failed:
    last = child.end()
    assert isinstance(last, Failed)
    return last


def test_a_loss_that_is_no_number_ends_it_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    wild = SHORT | {"learning_rate": 10.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    spec = spec_of(
        tmp_path / "job",
        hyperparameters=wild | {"max_steps": 200, "n_epochs": 50, "weight_decay": 10.0, "save_steps": 4},
    )
    child = Child(spec)
    failed = failure(child)
    assert failed.code == "training_diverged"
    assert "learning_rate" in failed.message
    kept = checkpoint.verified(spec.folder)
    assert kept
    assert kept[0] == child.said(Saved)[-1].step
    newest = checkpoint.folder_of(spec.folder, kept[0]) / "model.safetensors"
    assert all(bool(one.isfinite().all()) for one in load_file(newest).values())


def test_flaws_in_the_data_name_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "a", "completion": "b"}), json.dumps({"prompt": "a"})]
    failed = failure(Child(spec_of(tmp_path / "job", "\n".join(lines), "a.jsonl", hyperparameters=SHORT)))
    assert failed.code == "invalid_training_file"
    assert failed.message.startswith("Line 2:")


def test_a_base_that_cannot_be_read(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in (Path(__file__).parents[2] / "models" / "starter").iterdir():
        (base / path.name).write_bytes(
            path.read_bytes()[: 1_000_000 if path.suffix == ".safetensors" else None]
        )
    spec = spec_of(tmp_path / "job", model=base, init="pretrained", architecture=None, hyperparameters=SHORT)
    assert failure(Child(spec)).code == "model_unavailable"


def test_an_architecture_with_too_few_tokens_for_its_tokenizer(tmp_path: Path) -> None:
    starter = Path(__file__).parents[2] / "models" / "starter"
    failed = failure(Child(spec_of(tmp_path / "job", tokenizer=starter, hyperparameters=SHORT)))
    assert failed.code == "model_unavailable"
    assert "4,096" in failed.message


def test_a_disk_that_is_too_small_is_seen_before_the_start(tmp_path: Path) -> None:
    failed = failure(
        Child(
            spec_of(
                tmp_path / "job",
                hyperparameters=SHORT | {"save_total_limit": 100},
                architecture={"n_layer": 48, "n_head": 25, "n_embd": 1600, "vocab_size": 50257},
            )
        )
    )
    assert failed.code == "insufficient_storage"
    assert "save_total_limit" in failed.message


def test_what_libraries_say_of_memory_and_disks_is_understood() -> None:
    assert isinstance(
        run._known(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")), OutOfMemory
    )
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert isinstance(run._known(raised.value), OutOfMemory)
    assert isinstance(run._known(OSError(28, "No space left on device")), DiskFull)
    assert run._known(RuntimeError("shapes differ")) is None
    assert saver._is_full(OSError(28, "No space left on device"), Path("/"))
