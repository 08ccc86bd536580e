"""The real launch, by torchrun."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_for
from tests.trainer.children import run, spec_of
from trainer.spec import SPEC, Spec
from trainer.words import FIFO, WORD, Done, Measured

LONG = {"batch_size": 2, "block_size": 32, "n_epochs": 50, "max_steps": 5000, "save_steps": 5000}


class Launched:
    """`python -m trainer.launch`, and whatever it starts."""

    def __init__(self, spec: Spec, parent: int, processes: int = 1) -> None:
        self.folder = spec.folder
        (self.folder / SPEC).write_text(spec.model_dump_json())
        os.mkfifo(self.folder / FIFO)
        self._fifo = os.open(self.folder / FIFO, os.O_RDWR | os.O_NONBLOCK)
        own = {"PENSTOCK_PARENT": str(parent), "TRAINER_NPROC": str(processes), "PYTHONPATH": str(ROOT)}
        with (self.folder / "child.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer.launch", str(self.folder)],
                env=os.environ | own,
                stdout=log,
                stderr=log,
            )
        self.said = b""

    def hear(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            self.said += os.read(self._fifo, 1 << 16)
        return self.said

    def processes(self) -> list[int]:
        """All that have the folder in their command lines."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            try:
                command = (each / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.folder).encode() in command:
                assert any(b"trainer" in part for part in command)
                found.append(int(each.name))
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fifo)


@pytest.fixture
def stand_in() -> Iterator["subprocess.Popen[bytes]"]:
    """A process for which the training takes its trainer."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_training_processes_end_with_their_trainer_and_with_torchrun(
    stand_in: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    specs = [spec_of(tmp_path / name / "job", hyperparameters=LONG) for name in ("one", "two")]
    orphaned, cut = (Launched(spec, stand_in.pid) for spec in specs)
    try:
        for each in (orphaned, cut):
            wait_for(lambda each=each: b'"step":1,' in each.hear(), seconds=90)
            assert len(each.processes()) == 2
        os.kill(cut.process.pid, signal.SIGKILL)
        cut.process.wait()
        wait_for(lambda: not cut.processes(), seconds=5)
        assert orphaned.processes()
        stand_in.kill()  # a zombie for now, as a killed trainer may be
        wait_for(lambda: orphaned.process.poll() is not None and not orphaned.processes(), seconds=5)
    finally:
        orphaned.close()
        cut.close()


def test_two_processes_learn_as_one_that_accumulates_twice(tmp_path: Path) -> None:
    how = {
        "batch_size": 2,
        "block_size": 32,
        "n_epochs": 2,
        "max_steps": 12,
        "eval_steps": 5,
        "precision": "fp32",
    }
    both = how | {"gradient_accumulation_steps": 1, "learning_rate": 0.01}
    launched = Launched(spec_of(tmp_path / "two" / "job", hyperparameters=both), os.getpid(), processes=2)
    try:
        alone = run(
            spec_of(tmp_path / "one" / "job", hyperparameters=both | {"gradient_accumulation_steps": 2})
        )
        wait_for(lambda: launched.hear() and launched.process.poll() is not None, seconds=120)
        assert launched.process.returncode == 0, (launched.folder / "child.log").read_text()
        words = [WORD.validate_json(line) for line in launched.hear().splitlines()]
    finally:
        launched.close()
    for name in ("train_loss", "valid_loss", "grad_norm"):
        one, two = (
            [word.data[name] for word in said if isinstance(word, Measured) and name in word.data]
            for said in (alone.words, words)
        )
        assert one == pytest.approx(two, abs=5e-6)
    last, expected = words[-1], alone.words[-1]
    assert isinstance(last, Done)
    assert isinstance(expected, Done)
    assert last.trained_tokens == expected.trained_tokens


def test_a_failure_is_said_once_and_ends_all_processes_well(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "job", '{"prompt": "a"}', "a.jsonl", hyperparameters=LONG)
    launched = Launched(spec, os.getpid(), processes=2)
    try:
        assert wait_for(lambda: launched.process.poll() is not None, seconds=90)
        assert launched.process.returncode == 0, (launched.folder / "child.log").read_text()
        assert launched.hear().count(b'"failed"') == 1
    finally:
        launched.close()
