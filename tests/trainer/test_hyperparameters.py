from pathlib import Path
from typing import Any

import pytest

from tests.trainer.children import Child, data_of, prose, result_hashes, resumed, run, spec_of
from trainer import checkpoint
from trainer.history import History
from trainer.words import Chosen, Done, Forgotten, Measured, Saved

SHORT = {"batch_size": 2, "block_size": 32, "n_epochs": 2, "learning_rate": 0.01, "precision": "fp32"}


def trained(folder: Path, **hyperparameters: Any) -> Child:
    return run(spec_of(folder / "job", hyperparameters=SHORT | hyperparameters))


def series(child: Child, name: str) -> dict[int, float]:
    found = [word.data for word in child.said(Measured) if word.data.get(name) is not None]
    return {data["step"]: data[name] for data in found}


def test_the_rate_warms_up_and_falls_as_the_schedule_says(tmp_path: Path) -> None:
    linear = series(trained(tmp_path / "linear", max_steps=8, warmup_steps=2), "learning_rate")
    assert list(linear.values()) == pytest.approx([0, 0.005, *(0.01 * left / 6 for left in range(6, 0, -1))])
    even = trained(tmp_path / "even", max_steps=4, lr_scheduler_type="constant_with_warmup", warmup_steps=1)
    assert list(series(even, "learning_rate").values()) == pytest.approx([0, 0.01, 0.01, 0.01])


def test_a_step_of_more_passes_learns_as_one_of_more_rows(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", max_steps=6, batch_size=4)
    two = trained(tmp_path / "two", max_steps=6, batch_size=2, gradient_accumulation_steps=2)
    by_tokens = trained(tmp_path / "three", max_steps=6, batch_size=2, tokens_per_step=128)
    assert series(one, "train_loss") == pytest.approx(series(two, "train_loss"), abs=2e-5)
    assert series(by_tokens, "train_loss") == series(two, "train_loss")


def test_clipping_and_decay_do_something(tmp_path: Path) -> None:
    plain = series(trained(tmp_path / "plain", max_steps=5), "train_loss")
    clipped = series(trained(tmp_path / "clipped", max_steps=5, max_grad_norm=0.01), "train_loss")
    decayed = series(trained(tmp_path / "decayed", max_steps=5, weight_decay=5.0), "train_loss")
    assert plain[5] not in (clipped[5], decayed[5])


def test_it_ends_once_the_loss_is_below_its_target(tmp_path: Path) -> None:
    child = trained(tmp_path, n_epochs=20, target_loss=4.5)
    losses = list(series(child, "train_loss").values())
    last = child.words[-1]
    assert isinstance(last, Done)
    assert losses[-1] < 4.5 <= min(losses[:-1])
    assert last.steps < child.said(Chosen)[0].total_steps
    spec = resumed(spec_of(tmp_path / "job", hyperparameters=SHORT | {"n_epochs": 20, "target_loss": 4.5}))
    again = run(spec)  # it died while publishing, say
    assert again.words[-1] == last


def test_early_stopping_waits_for_as_many_evaluations_and_the_best_becomes_the_result(tmp_path: Path) -> None:
    other = data_of(tmp_path / "other.txt", "\n".join(prose(60, seed=3).upper().split("\n")))
    how = {"n_epochs": 30, "eval_steps": 4, "early_stopping_patience": 2, "load_best_model_at_end": True}
    spec = spec_of(tmp_path / "job", hyperparameters=SHORT | how, validation=other)
    child = run(spec)
    valid = series(child, "valid_loss")
    best = min(valid, key=lambda step: valid[step])
    assert list(valid)[-3] == best  # two without gain came after it
    history = History.read(checkpoint.folder_of(spec.folder, checkpoint.steps(spec.folder)[0]))
    assert history.finished
    assert history.best_step == best
    kept = checkpoint.folder_of(spec.folder, best)
    assert (kept / "model.safetensors").read_bytes() == (
        spec.folder / "result/model.safetensors"
    ).read_bytes()


def test_the_newest_checkpoints_stay_and_the_best_beside_them(tmp_path: Path) -> None:
    other = data_of(tmp_path / "other.txt", prose(60, seed=3).upper())
    how = {"max_steps": 10, "save_steps": 2, "eval_steps": 2, "save_total_limit": 1, "learning_rate": 0.05}
    spec = spec_of(tmp_path / "job", hyperparameters=SHORT | how, validation=other)
    child = run(spec)
    valid = series(child, "valid_loss")
    best = min(valid, key=lambda step: valid[step])
    assert checkpoint.verified(spec.folder) == sorted({10, best}, reverse=True)
    saved = [word.step for word in child.said(Saved)]
    assert saved == [2, 4, 6, 8, 10]
    assert {word.step for word in child.said(Forgotten)} == set(saved) - {10, best}


def test_epochs_are_where_they_should_be(tmp_path: Path) -> None:
    child = trained(tmp_path, n_epochs=2, eval_steps="epoch", save_steps="epoch", batch_size=8)
    total = child.said(Chosen)[0].total_steps
    assert [word.step for word in child.said(Saved)] == [total // 2, total]
    assert list(series(child, "valid_loss")) == [total // 2, total]


def test_the_clock_decides_where_nobody_says_when_to_save(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "job", hyperparameters=SHORT | {"max_steps": 5}, save_seconds=0.0)
    assert [word.step for word in run(spec).said(Saved)] == [1, 2, 3, 4, 5]


def test_the_seed_decides(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        spec = spec_of(tmp_path / name / "job", hyperparameters=SHORT | {"max_steps": 3}, seed=seed)
        run(spec)
        hashes.append(result_hashes(spec)["model.safetensors"])
    assert hashes[0] == hashes[1] != hashes[2]
