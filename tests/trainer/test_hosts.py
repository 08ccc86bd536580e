"""Two hosts that train one model: two trainers with disks of their own, torchrun and gloo between them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.states import State
from tests.conftest import ROOT, wait_for
from tests.end_to_end.conftest import free_port
from tests.trainer.conftest import JOB, Bench

TEXT = "\n".join(f"line {number} of what both hosts read" for number in range(400))


@pytest.fixture
def hosts(bench: Bench, tmp_path: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The first host's trainer and the second's."""
    clean = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    meeting = f"127.0.0.1:{free_port()}"
    started = []
    for number in (0, 1):
        own = {
            "PYTHONPATH": str(ROOT),
            "VAR_DIR": str(tmp_path / f"host{number}"),
            "DATABASE_URL": bench.settings.database,
            "REDIS_URL": bench.settings.redis,
            "ARTIFACTS_URL": bench.settings.artifacts,
            "DEVICE": "cpu",
            "TORCH_THREADS": "1",
            "WORKER_NAME": f"host{number}",
            "TRAINER_NNODES": "2",
            "TRAINER_NODE": str(number),
            "TRAINER_RENDEZVOUS": meeting,
        }
        with (tmp_path / f"host{number}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "trainer.app"], cwd=ROOT, env=clean | own, stdout=log, stderr=log
                )
            )
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_two_hosts_train_one_model(bench: Bench, hosts: list["subprocess.Popen[bytes]"]) -> None:
    bench.submit(TEXT, hyperparameters={"n_epochs": 2, "batch_size": 2, "precision": "fp32"})
    row = wait_for(lambda: row if (row := bench.row()).finished_at else None, 240, 0.2)
    assert (row.state, row.error) == (State.SUCCEEDED, None)
    assert row.attempt == 1
    losses = [event.data["train_loss"] for event in bench.events() if event.data]
    assert losses[-1] < losses[0]
    second = bench.settings.var_dir / "host1" / "trainer" / JOB
    assert (second / "child.log").exists(), "the second host did not take part"
