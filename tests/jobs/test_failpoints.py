"""What FAILPOINTS makes a process do, and that every point stands somewhere in the product."""

import re
import signal
import subprocess
import sys
import time
import timeit
from pathlib import Path

import pytest

from jobs import failpoints
from jobs.errors import BadSetting
from tests.conftest import ROOT


def run(passings: int = 1, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A process that passes one point, and says each time that it is behind it."""
    passing = f"for n in range({passings}): failpoint('in_step'); print(n)"
    code = f"from jobs.failpoints import failpoint\n{passing}"
    return subprocess.run(
        [sys.executable, "-u", "-c", code],
        env={"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_without_it_nothing_happens_and_nothing_is_paid() -> None:
    assert run(2).stdout == "0\n1\n"
    seconds = min(timeit.repeat(lambda: failpoints.failpoint("in_step"), number=100_000, repeat=3))
    assert seconds / 100_000 < 2e-6  # a step of the smallest model takes a hundred times that


def test_other_points_are_passed() -> None:
    assert run(FAILPOINTS="after_claim=kill, before_bell=exit").stdout == "0\n"


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("exit", 1), ("raise", 1)])
def test_a_process_dies_as_it_was_told(action: str, code: int) -> None:
    died = run(FAILPOINTS=f"in_step={action}")
    assert (died.returncode, died.stdout) == (code, "")
    assert ("FAILPOINTS asked for this failure" in died.stderr) == (action == "raise")


def test_it_may_be_the_third_time(tmp_path: Path) -> None:
    assert run(9, FAILPOINTS="in_step=exit@3").stdout == "0\n1\n"


def test_a_process_that_is_started_again_lives(tmp_path: Path) -> None:
    told = {"FAILPOINTS": "in_step=kill", "FAILPOINTS_ONCE": str(tmp_path)}
    assert run(**told).returncode == -signal.SIGKILL
    assert run(3, **told).stdout == "0\n1\n2\n"
    (tmp_path / "in_step").unlink()
    assert run(**told).returncode == -signal.SIGKILL


def test_a_sleep_is_as_long_as_asked_for() -> None:
    began = time.monotonic()
    assert run(2, FAILPOINTS="in_step=sleep:0.4@2").stdout == "0\n1\n"
    assert time.monotonic() - began > 0.4


def test_a_stopped_process_goes_on_when_it_is_told() -> None:
    code = "from jobs.failpoints import failpoint; failpoint('in_step'); print('on')"
    environment = {"PYTHONPATH": str(ROOT), "FAILPOINTS": "in_step=stop"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 20
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=20)[0] == b"on\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("after_lunch=kill", "there is no point 'after_lunch'. Send one of before_claim_commit,"),
        ("in_step=faint", "there is no action 'faint' like this. Send kill, stop, exit, raise or sleep"),
        ("in_step=sleep", "there is no action 'sleep' like this"),
        ("in_step=kill:3", "there is no action 'kill' like this"),
        ("in_step", "'in_step' is not point=action or point=action@passing"),
        ("in_step=kill@0", "'in_step=kill@0' is not point=action"),
    ],
)
def test_what_cannot_be_understood_is_one_sentence(given: str, said: str) -> None:
    with pytest.raises(BadSetting, match=re.escape(said)):
        failpoints.plans(given)


def test_every_point_stands_in_the_product() -> None:
    sources = "".join(
        path.read_text()
        for room in ("jobs", "web", "worker", "trainer")
        for path in (ROOT / room).rglob("*.py")
    )
    assert set(re.findall(r'failpoint\("(\w+)"\)', sources)) == set(failpoints.POINTS)
