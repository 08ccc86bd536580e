"""PostgreSQL that is away, or whose answers get lost: what was told is true, what was not is done again."""

import contextlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest

from tests.conftest import wait_for
from tests.faults.house import LEASE, House
from tests.faults.ledger import PROMPTS, Ledger
from tests.faults.proxy import Fault, Way


def test_while_the_database_is_down_creates_are_refused_and_none_leaves_a_job(
    house: House, ledger: Ledger
) -> None:
    """Row 9."""
    ledger.submit(4)
    ledger.all_end()
    house.kill_server("postgres")
    for _ in range(8):
        answer = ledger.create(PROMPTS[0], 4)
        assert answer.status == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert answer.body["error"]["code"] == "database_unavailable"
    house.start_server("postgres")
    house.wait_until_it_serves()
    assert ledger.jobs() == len(ledger.accepted) == 4
    ledger.submit(4)
    ledger.all_end()


def test_a_database_that_dies_under_load_has_every_job_that_was_told_of_and_no_other(
    house: House, ledger: Ledger
) -> None:
    """Row 9: each create goes on with its key until it is taken, as clients do."""
    with ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(_insist, ledger, number) for number in range(60)]
        wait_for(lambda: len(ledger.accepted) >= 20, every=0.001)
        house.kill_server("postgres")
        house.start_server("postgres")
        for each in taken:
            each.result()
    assert ledger.jobs() == len(ledger.accepted) == 60
    ledger.all_end()


def _insist(ledger: Ledger, number: int) -> None:
    headers = {"Idempotency-Key": f"{number}-{secrets.token_hex(8)}"}

    def taken() -> bool:
        with contextlib.suppress(OSError, HTTPException):
            answer = ledger.create(PROMPTS[number % len(PROMPTS)], 4, headers)
            assert answer.status in (200, 409, 503), answer.body
            return answer.status == 200
        return False

    wait_for(taken, 60, every=0.1)


@pytest.mark.parametrize(("seconds", "most"), [(0.5, 1), (2 * LEASE, 2)])
def test_results_wait_for_a_database_that_is_away_and_are_not_made_again_while_their_lease_holds(
    house: House, ledger: Ledger, seconds: float, most: int
) -> None:
    """Row 10: away for everybody."""
    ledger.submit(8, tokens=300)
    wait_for(lambda: "running" in ledger.states(), every=0.005)
    house.kill_server("postgres")
    time.sleep(seconds)
    house.start_server("postgres")
    rows = ledger.all_end()
    assert max(row.attempt for row in rows) <= most
    assert {row.failures for row in rows} == {0}


def test_results_of_a_worker_that_is_cut_off_for_longer_than_its_lease_are_discarded_and_made_again(
    house: House, ledger: Ledger
) -> None:
    """Row 10: the others reach the database, so its jobs are taken from it."""
    worker = house.worker(FAILPOINTS="in_step=sleep:0.02")
    with house.paused("worker"):
        ledger.submit(4, tokens=100)
        wait_for(lambda: ledger.states() == ["running"] * 4, every=0.005)
        worker.database.refuse()
    before = ledger.all_end()
    assert {(row.attempt, row.crashes) for row in before} == {(2, 1)}
    worker.database.heal()
    wait_for(lambda: worker.said.count("lease lost") == 4)
    assert ledger.judge() == before


def test_a_create_whose_commit_was_not_answered_is_one_job_when_it_is_sent_again(
    house: House, ledger: Ledger
) -> None:
    """Row 11."""
    web = house.processes["web"]
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    web.database.fault(Way.DOWN, Fault(cut_after=0, once_sent=b"resp_.*COMMIT", times=1))
    answer = ledger.create(PROMPTS[0], 8, headers)
    assert web.database.hit == 1
    assert answer.status == 503
    assert ledger.jobs() == 1  # it was accepted, though nobody could know
    again = ledger.create(PROMPTS[0], 8, headers)
    assert again.status == 200
    assert ledger.jobs() == 1
    ledger.all_end()


def test_a_result_whose_commit_was_not_answered_is_written_once(house: House, ledger: Ledger) -> None:
    """Row 11."""
    worker = house.processes["worker"]
    worker.database.fault(Way.DOWN, Fault(cut_after=0, once_sent=b"receipt.*COMMIT", times=1))
    ledger.submit(1)
    wait_for(lambda: worker.database.hit == 1)
    [row] = ledger.all_end()
    assert (row.attempt, row.failures, row.crashes) == (1, 0, 0)
    wait_for(lambda: "result dropped, lease lost" in worker.said)


def test_jobs_of_a_claim_whose_commit_was_not_answered_are_rescued_after_a_lease(
    house: House, ledger: Ledger
) -> None:
    """Row 11: nobody knows that they are claimed."""
    worker = house.worker(FAILPOINTS="before_claim_commit=sleep:1@1")
    with house.paused("worker"):
        ledger.submit(1)
        worker.database.fault(Way.DOWN, Fault(cut_after=0, once_sent=b"COMMIT"))
        wait_for(lambda: "running" in ledger.states())
        worker.database.heal()
    [row] = ledger.all_end()
    assert (row.attempt, row.failures, row.crashes) == (2, 0, 1)
