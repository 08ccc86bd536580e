"""`make chaos` itself, for a moment: it finds a stack under load well."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.chaos import report


@pytest.mark.slow  # a minute: a stack with two workers starts, is struck and comes to rest
def test_a_moment_of_chaos_loses_and_doubles_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "report.json"
    faults = ["--only", "worker SIGKILL", "Redis SIGKILL", "clerk SIGKILL"]
    command = [sys.executable, "-m", "tests.faults.chaos", "--minutes", "0.3", "--json", str(kept), *faults]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = report.read(kept)
    assert made.kills
    assert made.accepted > 0
