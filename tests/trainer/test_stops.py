from pathlib import Path

import pytest

from tests.trainer.children import Child, result_hashes, resumed, run
from tests.trainer.test_kills import at, training
from trainer import checkpoint
from trainer.history import History
from trainer.spec import Spec
from trainer.words import Done, Entered, Measured, Saved, Stopped


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Done]:
    spec = training(tmp_path_factory.mktemp("undisturbed") / "job")
    last = run(spec).words[-1]
    assert isinstance(last, Done)
    return spec, last


def test_stopped_in_any_phase_it_goes_on_to_the_same_weights(
    undisturbed: tuple[Spec, Done], tmp_path: Path
) -> None:
    whole, done = undisturbed
    spec = whole.model_copy(update={"folder": tmp_path / "job"})
    spec.folder.mkdir()
    steps = []
    for moment in ("loading", "step 1", "evaluating", "saving"):
        child = Child(spec)
        child.until(at(moment))
        child.stop()
        last = child.end()
        assert isinstance(last, Stopped)
        steps.append(last.step)
        assert checkpoint.verified(spec.folder)[:1] == ([last.step] if last.step else [])
        spec = resumed(spec)
    assert steps[0] == 0
    assert steps == sorted(set(steps))
    last = run(spec).words[-1]
    assert result_hashes(spec) == result_hashes(whole)
    assert last == done
    assert (spec.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()


def test_an_evaluation_that_a_stop_cut_short_is_done_after_the_resume(tmp_path: Path) -> None:
    spec = training(tmp_path / "job", eval_steps=3, load_best_model_at_end=True, save_steps=100)
    child = Child(spec)
    child.until(at("evaluating"))
    child.stop()
    assert child.end() == Stopped(step=3)
    assert not [word for word in child.said(Measured) if "valid_loss" in word.data]
    assert History.read(spec.folder / "checkpoint-3").owes_evaluation
    again = run(resumed(spec))
    evaluated = [word.data["step"] for word in again.said(Measured) if "valid_loss" in word.data]
    assert evaluated == [3, 6, 9, 12, 14]
    saved = again.said(Saved)
    assert (saved[0].step, saved[0].best) == (3, True)  # which the parent could not know before
    assert not [word for word in again.words[:3] if word == Entered(phase="training")]


def test_a_stop_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    spec = training(tmp_path / "job")
    child = Child(spec)
    child.stop()
    assert child.end() == Stopped(step=0)
    assert checkpoint.steps(spec.folder) == []
