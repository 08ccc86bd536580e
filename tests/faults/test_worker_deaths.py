"""Workers that die, stand still and come back, at every step of an attempt: each job still ends once."""

import itertools
import signal
import sys
import time
from typing import Any

import pytest
from sqlalchemy import Row, text

from tests.conftest import wait_for
from tests.faults.house import BEAT, LEASE, SWEEP, House, Process
from tests.faults.ledger import Ledger
from tests.faults.poisoned import POISON
from tests.web.receiver import receiving

MARGIN = 4.0  # seconds; the machine has others to serve
LOOK = 1.2  # seconds between two looks of a worker for due jobs, at most
KILLED = -signal.SIGKILL


def doomed(
    house: House,
    ledger: Ledger,
    failpoints: str,
    tokens: int = 100,
    jobs: int = 4,
    deaths: int = 0,
    **environment: str,
) -> Process:
    """Jobs, and a worker that claims all of them and comes upon that; the usual one stands still meanwhile.

    `deaths`: how many workers died with these jobs before.
    """
    house.processes["worker"].signal(signal.SIGSTOP)
    ledger.submit(jobs, tokens)
    with house.database.transaction() as connection:
        connection.execute(text("UPDATE jobs SET crashes = :deaths"), {"deaths": deaths})
    return house.worker(FAILPOINTS=failpoints, **environment)


def carry_on(house: House) -> None:
    """The usual worker works again."""
    house.processes["worker"].signal(signal.SIGCONT)


def spans(house: House, job_id: str) -> list[tuple[str, float]]:
    """The moves of a job in order: the state, and when in seconds."""
    asked = text("SELECT state, extract(epoch FROM at) FROM job_events WHERE job_id = :id ORDER BY id")
    with house.database.transaction() as connection:
        return [(state, float(at)) for state, at in connection.execute(asked, {"id": job_id})]


def rescued(rows: list[Row[Any]]) -> list[Row[Any]]:
    """Those whose worker died with them, of which there is one; each death cost an attempt and no more."""
    assert {(row.attempt, row.failures) for row in rows} <= {(1, 0), (2, 0)}
    assert all(row.crashes == row.attempt - 1 for row in rows)
    lost = [row for row in rows if row.crashes]
    assert lost
    return lost


def recovery(house: House, job_id: str) -> float:
    """Seconds from the first claim of a job to the second."""
    claimed = [at for state, at in spans(house, job_id) if state == "running"]
    return claimed[1] - claimed[0]


def test_a_worker_that_dies_before_its_claim_is_committed_has_changed_nothing(
    house: House, ledger: Ledger
) -> None:
    """Row 13."""
    assert doomed(house, ledger, "before_claim_commit=kill").died() == KILLED
    assert {(row.state, row.attempt, row.crashes) for row in ledger.rows()} == {("queued", 0, 0)}
    carry_on(house)
    assert {(row.attempt, row.crashes) for row in ledger.all_end()} == {(1, 0)}


@pytest.mark.parametrize("point", ["after_claim", "before_first_token"])
def test_jobs_of_a_worker_that_dies_before_their_first_token_run_again_after_a_lease(
    house: House, ledger: Ledger, point: str
) -> None:
    """Row 14."""
    assert doomed(house, ledger, f"{point}=kill").died() == KILLED
    carry_on(house)
    for row in rescued(ledger.all_end()):
        assert recovery(house, row.id) < LEASE + SWEEP + LOOK + MARGIN


def test_all_jobs_of_a_worker_that_dies_in_the_middle_of_a_batch_run_again(
    house: House, ledger: Ledger
) -> None:
    """Row 15."""
    assert doomed(house, ledger, "in_step=kill@20", jobs=8).died() == KILLED
    carry_on(house)
    assert len(rescued(ledger.all_end())) > 1


def test_jobs_whose_workers_died_twice_run_alone(house: House, ledger: Ledger) -> None:
    """Row 15: one of them may be the reason, and shall take no neighbour along."""
    assert doomed(house, ledger, "in_step=kill@10", tokens=60, deaths=1).died() == KILLED
    carry_on(house)
    rows = [row for row in ledger.all_end() if row.crashes == 2]
    assert len(rows) > 1
    alone = sorted((row.started_at, row.finished_at) for row in rows)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(alone))


@pytest.mark.parametrize(("point", "attempt"), [("before_settle_commit", 2), ("after_settle", 1)])
def test_a_result_is_written_once_and_told_to_whoever_wants_to_know(
    house: House, ledger: Ledger, point: str, attempt: int
) -> None:
    """Row 17."""
    with receiving() as receiver:
        house.processes["worker"].signal(signal.SIGSTOP)
        process = house.worker(FAILPOINTS=f"{point}=kill")
        answer = ledger.create("\ndef main(", 8, webhook=receiver.url)
        assert answer.status == 200
        assert process.died() == KILLED
        carry_on(house)
        [row] = ledger.all_end()
        assert (row.attempt, row.crashes) == (attempt, attempt - 1)
        wait_for(lambda: receiver.heard)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.heard}) == 1


def test_a_worker_that_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on(
    house: House, ledger: Ledger
) -> None:
    """Row 18."""
    zombie = doomed(house, ledger, "in_step=sleep:0.02")
    wait_for(lambda: ledger.states() == ["running"] * 4, every=0.005)
    zombie.signal(signal.SIGSTOP)
    carry_on(house)
    before = ledger.all_end()
    assert {row.attempt for row in before} == {2}
    heard = zombie.said.count("lease lost")
    zombie.signal(signal.SIGCONT)
    wait_for(lambda: zombie.said.count("lease lost") == heard + 4)
    assert ledger.judge() == before


def test_a_worker_that_stands_still_in_the_middle_of_its_commit_holds_nobody_up(
    house: House, ledger: Ledger
) -> None:
    """Row 18: it holds locks on the rows that are to be taken from it."""
    zombie = doomed(house, ledger, "before_settle_commit=stop@1", tokens=20, jobs=1)
    wait_for(lambda: zombie.stands)
    carry_on(house)
    before = ledger.all_end()
    assert {row.attempt for row in before} == {2}
    zombie.signal(signal.SIGCONT)
    wait_for(lambda: "result dropped, lease lost" in zombie.said)
    assert ledger.judge() == before


@pytest.mark.parametrize("patience", [1.0, 1.5 * LEASE])
def test_a_worker_whose_step_hangs_loses_its_jobs_once_and_ends_itself(
    house: House, ledger: Ledger, patience: float
) -> None:
    """Row 19: they run again elsewhere when it ends, or when their leases have run out, if that is sooner."""
    process = doomed(house, ledger, "in_step=sleep:600@10", STEP_TIMEOUT_SECONDS=str(patience))
    wait_for(lambda: "running" in ledger.states())
    carry_on(house)
    assert process.died() == 1
    for row in rescued(ledger.all_end()):
        assert recovery(house, row.id) < 2 * BEAT + LEASE + SWEEP + LOOK + MARGIN


def test_a_worker_whose_heartbeat_dies_ends_itself(house: House, ledger: Ledger) -> None:
    """Row 19."""
    process = doomed(house, ledger, "before_heartbeat=raise,in_step=sleep:0.1")
    assert process.died() == 1
    carry_on(house)
    for row in rescued(ledger.all_end()):
        assert recovery(house, row.id) < BEAT + LEASE + SWEEP + LOOK + MARGIN


def test_a_job_that_kills_its_worker_three_times_fails_alone(house: House, ledger: Ledger) -> None:
    """Row 20. Three workers die of it, so three are started."""
    house.processes["worker"].signal(signal.SIGSTOP)
    command = [sys.executable, "-m", "tests.faults.poisoned"]
    workers = house.workers(3, command, LEASE_SECONDS="1", HEARTBEAT_SECONDS="0.3")
    poison = ledger.create(POISON, 40)
    ledger.submit(6, tokens=100)
    wait_for(lambda: not any(each.lives for each in workers), 60)
    carry_on(house)
    wait_for(lambda: set(ledger.states()) <= {"succeeded", "failed"}, 60)
    [failed] = [row for row in ledger.judge(("succeeded", "failed")) if row.state == "failed"]
    assert (failed.id, failed.code, failed.crashes) == (poison.body["id"], "poisoned", 3)
    shown = house.call("GET", f"/v1/responses/{failed.id}").body
    assert shown["status"] == "failed"
    assert "3 times" in shown["error"]["message"]


def test_a_worker_that_is_told_to_end_finishes_what_fits_and_hands_back_the_rest_uncharged(
    house: House, ledger: Ledger
) -> None:
    """Row 22."""
    worker = house.restart("worker", FAILPOINTS="in_step=sleep:0.05")
    short = ledger.submit(4, tokens=8)
    long = ledger.submit(20, tokens=200)
    wait_for(lambda: all(row.state != "queued" for row in ledger.rows(short)), every=0.005)
    began = time.monotonic()
    worker.popen.send_signal(signal.SIGTERM)
    assert worker.died() == 0
    assert time.monotonic() - began < 7  # DRAIN_SECONDS
    assert {row.state for row in ledger.rows(short)} == {"succeeded"}
    handed_back = [row for row in ledger.rows(long) if row.attempt]
    assert handed_back
    for row in ledger.rows(long):
        assert (row.state, row.failures, row.crashes) == ("queued", 0, 0)
    house.start("worker")
    ledger.all_end()
    assert {row.attempt for row in ledger.rows(row.id for row in handed_back)} == {2}
