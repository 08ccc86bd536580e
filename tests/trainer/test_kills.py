from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.children import Child, result_hashes, resumed, run, spec_of
from trainer.spec import Spec
from trainer.words import Done, Entered, Stepped, Word

HYPERPARAMETERS = {
    "n_epochs": 2,
    "batch_size": 2,
    "block_size": 32,
    "gradient_accumulation_steps": 3,
    "max_steps": 14,
    "eval_steps": 4,
    "save_steps": 3,
    "learning_rate": 0.01,
    "warmup_steps": 3,
    "weight_decay": 0.1,
}


def training(folder: Path, **changes: object) -> Spec:
    return spec_of(folder, hyperparameters=HYPERPARAMETERS | changes)


def adapter(folder: Path) -> Spec:
    """One with dropout, which draws random numbers at every step."""
    base = training(folder.parent / "base", max_steps=1)
    run(base)
    spec = training(folder, precision="bf16", lora_dropout=0.1)
    changes = {"model": base.folder / "result", "init": "pretrained", "architecture": None}
    return spec.model_copy(update=changes | {"adapter": "lora"})


@pytest.fixture(scope="module", params=["bf16", "fp32", "lora"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Spec, Done]:
    folder = tmp_path_factory.mktemp("undisturbed") / "job"
    spec = adapter(folder) if request.param == "lora" else training(folder, precision=request.param)
    last = run(spec).words[-1]
    assert isinstance(last, Done)
    return spec, last


def at(moment: str) -> Callable[[Word], bool]:
    def is_it(word: Word) -> bool:
        match word:
            case Entered(phase=phase):
                return phase == moment
            case Stepped(step=step):
                return moment == f"step {step}"
        return False

    return is_it


def test_killed_at_any_moment_the_weights_are_those_of_an_undisturbed_run(
    undisturbed: tuple[Spec, Done], tmp_path: Path
) -> None:
    whole, done = undisturbed
    spec = whole.model_copy(update={"folder": tmp_path / "job", "training": whole.training})
    spec.folder.mkdir()
    for moment in ("training", "evaluating", "saving", "saving", "publishing"):
        child = Child(spec)
        child.until(at(moment))
        child.kill()
        spec = resumed(spec)
    last = run(spec).words[-1]
    assert result_hashes(spec) == result_hashes(whole)
    assert last == done  # trained tokens and all
    assert (spec.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()
