"""What a long run would leave behind, in small: `make soak` runs for hours."""

import os
from pathlib import Path

from tests.faults.house import House
from tests.faults.ledger import Ledger

ROUNDS = 4
NAMES = ("web", "worker", "clerk", "sweeper")


def test_rounds_of_faults_leave_memory_and_open_files_as_they_were(house: House, ledger: Ledger) -> None:
    """Row 32."""
    a_round(house, ledger)  # caches, pools and code that is imported late
    before = {name: used(house, name) for name in NAMES}
    for _ in range(ROUNDS):
        a_round(house, ledger)
    for name in NAMES:
        megabytes, files = used(house, name)
        assert megabytes - before[name][0] < 5 * ROUNDS, name
        assert files - before[name][1] < 2 * ROUNDS, name
    assert {(row.failures, row.crashes) for row in ledger.rows()} == {(0, 0)}


def a_round(house: House, ledger: Ledger) -> None:
    """Jobs, and all connections of everybody cut meanwhile, again and again."""
    for _ in range(3):
        ledger.submit(20, clients=4)
        for process in house.processes.values():
            process.redis.cut()
            if process.name != "web":  # its answers are the ledger's, and all are expected here
                process.database.cut()
    ledger.all_end()


def used(house: House, name: str) -> tuple[float, int]:
    """Megabytes in memory and open files of a process and its children."""
    pids = [house.processes[name].popen.pid]
    for pid in pids:
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files
