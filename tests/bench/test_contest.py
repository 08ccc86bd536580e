"""What the bench makes of contestants and their numbers, without any of them."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench import contest, picture, report
from bench.contest import Contestant, Process, compete, started
from bench.peers.job import Job, Sampling
from bench.workloads import WORKLOADS, mixed

ECHO = """
from bench.peers.job import serve

serve(lambda asked: lambda job: [[0] * (length - int(asked.option["short"])) for length in job.lengths])
"""
RATES = {"32": {"ours": [300.0, 330.0, 310.0], "theirs": [100.0, 110.0, 100.0], "slow": [10.0]}}


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Contestant:
    """A contestant that answers at once; its option says how many tokens it leaves out."""
    (tmp_path / "echo.py").write_text(ECHO)
    monkeypatch.setattr(contest, "PACKAGE", "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Contestant("echo", "echo", Path(sys.executable), tmp_path, {"short": "0"})


def test_a_job_survives_its_line() -> None:
    job = Job([[1, 2], [3]], [4, 5], Sampling(temperature=0.5))
    assert Job.parse(job.line()) == job
    assert Job.parse(mixed().line()) == mixed()


def test_the_workloads_are_the_same_every_time() -> None:
    assert WORKLOADS["mixed"] == mixed()
    assert {len(prompt) for prompt in WORKLOADS["32"].prompts} == {64}


def test_everyone_is_asked_everything_in_every_round(echo: Contestant) -> None:
    jobs = {"one": Job([[1]], [9]), "two": Job([[1], [2]], [3, 4])}
    with started([echo], threads=1, slots=2) as entrants:
        rates = compete(entrants, jobs, rounds=3)
    assert {name: len(row["echo"]) for name, row in rates.items()} == {"one": 3, "two": 3}


def test_a_contestant_that_leaves_tokens_out_is_not_counted(echo: Contestant) -> None:
    echo.options["short"] = "1"
    with Process(echo, threads=1, slots=2) as process, pytest.raises(RuntimeError, match=r"\[8\] tokens"):
        process.rate(Job([[1]], [9]))


def test_a_contestant_that_dies_is_named(echo: Contestant) -> None:
    echo.options["short"] = "x"
    with pytest.raises(RuntimeError, match="echo ended with 1"), Process(echo, 1, 2) as process:
        process.rate(Job([[1]], [9]))


def test_a_ratio_is_taken_round_by_round_against_the_best_peer() -> None:
    line = report.comparison(RATES, "ours", ["slow", "theirs"], {"32": 3.05})
    assert line == "| 32: ours over theirs | 3.00 (3.00 to 3.10) | 3.05 | missed |"


def test_the_picture_has_a_bar_for_everyone() -> None:
    drawn = ElementTree.fromstring(picture.draw(RATES))
    bars = list(drawn.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(bars) == 3
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[0] / widths[1] == pytest.approx(3.1, abs=0.01)
