"""The oracle of `make chaos` can say no: every kind of loss and doubling is found where there is one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.chaos import oracle, report
from tests.faults.chaos.ledger import Complaint, Event, Expected, Job, Ledger, Strike
from tests.faults.chaos.oracle import Verdict, judge
from tests.faults.chaos.recovery import recovered_after
from tests.faults.chaos.soak import Sample, least_squares, slopes


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """With one job, "a", that went well."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.accept("a", "name of a", "response", 0, Expected.TEXT, asked=9.0)
    ledger.see_final("a", "completed", "digest")
    ledger.log(
        moves("a", (0, "queued"), (1, "running"), (1, "succeeded")),
        [Job("a", "name of a", "response", None, None, 10.0)],
    )
    yield ledger
    ledger.close()


_NUMBER = iter(range(1, 1_000_000))


def moves(job_id: str, *to: tuple[int, str], at: float = 10.0, code: str | None = None) -> list[Event]:
    """A job's moves, a second apart; the code is of the last."""
    codes = [None] * (len(to) - 1) + [code]
    return [
        Event(next(_NUMBER), job_id, attempt, state, why, "worker1", at + second)
        for second, ((attempt, state), why) in enumerate(zip(to, codes, strict=True))
    ]


def found(verdict: Verdict) -> dict[str, list[str]]:
    """The ids in each list that is not empty."""
    groups = {name: getattr(verdict, name) for name in ("lost", "doubled", "poisoned", "wrong")}
    return {name: [finding.job_id for finding in group] for name, group in groups.items() if group}


def test_a_job_that_went_well_is_no_finding(ledger: Ledger) -> None:
    assert found(judge(ledger)) == {}
    assert judge(ledger).clean


def test_an_accepted_job_that_nobody_saw_ended_is_lost(ledger: Ledger) -> None:
    ledger.accept("b", "b", "response", 0, Expected.TEXT)
    assert found(judge(ledger)) == {"lost": ["b"]}


def test_a_job_whose_answer_got_lost_must_end_too(ledger: Ledger) -> None:
    ledger.log(moves("b", (0, "queued"), (1, "running")), [])
    assert found(judge(ledger)) == {"lost": ["b"]}


def test_a_job_that_is_not_found_any_more_is_lost(ledger: Ledger) -> None:
    ledger.complain(Complaint.MISSING, "a", "404")
    assert found(judge(ledger)) == {"lost": ["a"]}


def test_a_final_object_that_changes_is_a_doubling(ledger: Ledger) -> None:
    ledger.see_final("a", "completed", "digest")
    assert judge(ledger).clean
    ledger.see_final("a", "completed", "another")
    assert found(judge(ledger)) == {"doubled": ["a"]}


@pytest.mark.parametrize(
    "more", [(1, "succeeded"), (1, "failed"), (2, "running"), (1, "queued")], ids=lambda move: str(move[1])
)
def test_a_job_that_moves_after_its_end_is_a_doubling(ledger: Ledger, more: tuple[int, str]) -> None:
    ledger.log(moves("a", more, at=20.0), [])
    assert set(found(judge(ledger))["doubled"]) == {"a"}


def test_an_attempt_that_begins_twice_is_a_doubling(ledger: Ledger) -> None:
    ledger.log(moves("b", (0, "queued"), (1, "running"), (1, "running"), (1, "succeeded")), [])
    assert found(judge(ledger)) == {"doubled": ["b"]}


def test_two_jobs_for_one_create_are_a_doubling_unless_one_was_cancelled(ledger: Ledger) -> None:
    ledger.log(moves("b", (0, "queued")), [Job("b", "name of a", "response", None, None, 11.0)])
    ledger.log(moves("b", (0, "cancelled"), at=12.0), [])
    assert judge(ledger).clean
    twice = moves("c", (0, "queued"), (1, "running"), (1, "succeeded"))
    ledger.log(twice, [Job("c", "name of a", "response", None, None, 11.0)])
    assert found(judge(ledger)) == {"doubled": ["a"]}


def test_two_jobs_for_one_line_of_a_batch_are_a_doubling(ledger: Ledger) -> None:
    for name in "bc":
        ended = moves(name, (0, "queued"), (1, "running"), (1, "succeeded"))
        ledger.log(ended, [Job(name, name, "completion", "batch_1", 3, 10.0)])
    assert found(judge(ledger)) == {"doubled": ["b"]}


def test_a_job_that_is_poisoned_by_the_deaths_of_others_is_told_apart_from_the_poison(
    ledger: Ledger,
) -> None:
    for name, expected in (("b", Expected.TEXT), ("poison", Expected.POISON)):
        ledger.accept(name, name, "response", 0, expected)
        ledger.see_final(name, "failed", "digest")
        ledger.log(moves(name, (0, "queued"), (3, "running"), (3, "failed"), code="poisoned"), [])
    assert found(judge(ledger)) == {"poisoned": ["b"]}


def test_a_poison_that_does_not_fail_is_wrong(ledger: Ledger) -> None:
    ledger.accept("poison", "p", "response", 0, Expected.POISON)
    ledger.see_final("poison", "completed", "digest")
    assert found(judge(ledger)) == {"wrong": ["poison"]}


def test_a_lease_that_nobody_keeps_at_the_end_is_no_clean_verdict(ledger: Ledger) -> None:
    assert not judge(ledger, stale=1).clean


def test_the_table_blames_the_last_fault_before_the_jobs_last_move(ledger: Ledger) -> None:
    ledger.log(moves("b", (0, "queued"), (1, "running"), at=50.0), [])
    for began, fault in ((5.0, "early"), (45.0, "just before"), (90.0, "late")):
        ledger.strike(Strike("1", fault, began, began, began + 1, {"redis": 1}))
    made = report.of(ledger, judge(ledger), 60.0, {})
    assert {line.fault: line.lost for line in made.lines} == {"early": 0, "just before": 1, "late": 0}
    assert made.kills == {"redis": 3}
    assert not made.clean


def test_recovery_lasts_until_a_newcomer_succeeded_and_all_that_was_held_went_on(ledger: Ledger) -> None:
    strike = Strike("15", "death", began=100.0, died=100.0, over=100.0, held={"b": 1})
    ledger.log(moves("b", (0, "queued"), (1, "running"), at=98.0), [])
    assert recovered_after(ledger, strike) is None
    newcomer = moves("c", (0, "queued"), (1, "running"), (1, "succeeded"), at=101.0)
    ledger.log(newcomer, [Job("c", "c", "response", None, None, 101.0)])
    assert recovered_after(ledger, strike) is None
    ledger.log(moves("b", (1, "queued"), (2, "running"), at=105.0), [])
    assert recovered_after(ledger, strike) == pytest.approx(6.0)


def test_reports_of_several_runs_are_added_up(ledger: Ledger, tmp_path: Path) -> None:
    ledger.strike(Strike("4", "Redis SIGKILL", 12.0, 12.0, 12.0, {"redis": 1}, said="well"))
    report.write(report.of(ledger, judge(ledger), 60.0, {"background": 1}), tmp_path / "one.json")
    one = report.read(tmp_path / "one.json")
    both = report.add([one, one])
    assert (both.kills, both.accepted, both.runs) == ({"redis": 2}, 2, 2)
    assert [(line.tries, line.said) for line in both.lines] == [(2, {"well": 2})]
    assert "| 4 | Redis SIGKILL | 2 |" in report.as_markdown(both)


def test_a_slope_is_that_of_each_process_and_not_of_the_step_between_two() -> None:
    up = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    assert least_squares([up, [(x + 10, y + 500) for x, y in up]]) == pytest.approx(1.0)
    life = [
        Sample("web", pid, pid * 1000.0 + s, 100 + pid + s / 36, 30) for pid in (1, 2) for s in range(600)
    ]
    (slope,) = slopes(life)
    assert slope.memory_mb_per_hour == pytest.approx(100)
    assert (slope.processes, slope.descriptors_per_hour) == (2, pytest.approx(0))


def test_every_finding_is_told(ledger: Ledger) -> None:
    ledger.accept("b", "b", "response", 0, Expected.TEXT)
    assert '"lost", "job": "b"' in oracle.as_text(judge(ledger))
