"""A host whose wall clock is wrong: leases go by the database's clock, and patience by a monotonic one."""

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.faults.house import LEASE, House
from tests.faults.ledger import Ledger

HOUR = 3600
Clock = Callable[[int], None]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes a process's clock wrong."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to build the wrong clock with")
    built = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
    return built


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_by_an_hour_on_a_worker_takes_no_job_from_it(
    house: House, ledger: Ledger, shim: Path, tmp_path: Path, jump: int
) -> None:
    """Row 29. The sweeper's clock jumps, too."""
    clock = tmp_path / "offset"
    clock.write_bytes(struct.pack("q", 0))
    wrong = {"LD_PRELOAD": str(shim), "CLOCK_OFFSET": str(clock)}
    house.restart("sweeper", **wrong)
    worker = house.restart("worker", FAILPOINTS="in_step=sleep:0.06", **wrong)
    ledger.submit(4, tokens=100)  # longer than a lease
    wait_for(lambda: "running" in ledger.states(), every=0.005)
    with clock.open("r+b") as file:  # in place: the processes have it in their memory
        file.write(struct.pack("q", jump))
    assert abs(now_under(wrong) - time.time() - jump) < 10
    rows = ledger.all_end()
    assert {(row.attempt, row.crashes) for row in rows} == {(1, 0)}
    assert max((row.finished_at - row.started_at).total_seconds() for row in rows) > LEASE
    ledger.submit(4)
    assert {row.attempt for row in ledger.all_end()} == {1}
    assert worker.lives


def now_under(wrong: dict[str, str]) -> float:
    """The time of a process whose clock is wrong."""
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    return float(subprocess.run(asked, env=os.environ | wrong, capture_output=True, check=True).stdout)
