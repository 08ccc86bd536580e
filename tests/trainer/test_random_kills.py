"""SIGKILL at random moments; how many of them is up to TRAINING_KILLS (20)."""

import os
import random
import time
from pathlib import Path

import pytest

from tests.trainer.children import Child, result_hashes, resumed, run
from tests.trainer.test_kills import training
from trainer.words import Done

KILLS = int(os.environ.get("TRAINING_KILLS", "20"))


@pytest.mark.slow
def test_after_kills_at_random_moments_the_weights_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"TRAINING_KILLS drew with seed {seed}")
    draw = random.Random(seed)
    how = {"max_steps": 40, "n_epochs": 4, "save_steps": 2, "eval_steps": 3}
    whole = training(tmp_path / "whole", **how)
    undisturbed = run(whole)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        spec = whole.model_copy(update={"folder": tmp_path / f"killed-{rounds}"})
        spec.folder.mkdir()
        while True:
            child = Child(spec)
            for _ in range(draw.randint(1, 30)):
                if isinstance(child.until(lambda word: True), Done):
                    break
            else:
                time.sleep(draw.uniform(0, 0.03))  # somewhere between two words
                child.kill()
                kills += 1
                spec = resumed(spec)
                continue
            child.end()
            break
        assert result_hashes(spec) == result_hashes(whole)
        assert child.words[-1] == undisturbed.words[-1]
        assert (spec.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()
