"""The table of moves, drawn once more as facts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.states import FINAL, State, sources
from tests.conftest import ROOT

Q, R, S, F, C = State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (Q, {R}),  # a retry, a lost lease, our own shutdown
        (R, {Q}),  # a claim
        (S, {R}),  # a result comes from nobody but a running attempt
        (F, {Q, R}),
        (C, {Q, R}),
    ],
)
def test_a_state_is_reached_from_these_and_no_others(target: State, allowed: set[State]) -> None:
    assert sources(target) == allowed


def test_an_ended_job_stays_as_it_is() -> None:
    assert {S, F, C} == FINAL


def test_every_state_can_be_reached_from_the_first() -> None:
    reached = {Q}
    while more := {state for state in State if sources(state) & reached} - reached:
        reached |= more
    assert reached == set(State)


def test_only_lifecycle_writes_a_state() -> None:
    """Whoever else updates jobs touches other columns: what their owners see of them, and wish."""
    columns: dict[str, set[str]] = {}
    for room in ("jobs", "web", "worker", "trainer", "stack"):
        for file in (ROOT / room).rglob("*.py"):
            if file.name not in ("lifecycle.py", "submission.py"):
                said = file.read_text()
                found = re.findall(r"update\(jobs\)[^\n]*\n?[^\n]*\.values\((\w+)=", said)
                assert len(found) == len(re.findall(r"(?:update|insert)\(jobs\)", said)), file
                assert "UPDATE jobs" not in said, file
                columns |= {f"{room}/{file.name}": set(found)} if found else {}
    assert columns == {
        "jobs/records.py": {"stored"},
        "jobs/finetunes.py": {"available_at", "paused_at"},
        "jobs/training.py": {"progress"},
    }


def test_alembic_runs_as_contributing_says(services: Path) -> None:
    command = [str(Path(sys.executable).parent / "alembic"), "current"]
    environment = {**os.environ, "VAR_DIR": str(services)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
