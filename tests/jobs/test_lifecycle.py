"""What happens when many do it at once, on real connections, and what a row keeps."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func

from jobs import catalog, claims, lifecycle, submission
from jobs.attempts import Claim, Ending
from jobs.database import Database
from jobs.errors import InvalidPrompt, OutOfMemory, WorkerStopping
from jobs.states import State
from tests.jobs import samples
from tests.jobs.samples import LEASE


def together(*calls: Callable[[], object]) -> None:
    """Run the calls at the same moment and raise what they raised."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        start.wait(timeout=10)
        call()

    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(run, call) for call in calls]:
            done.result(timeout=60)


def test_eight_workers_get_each_of_400_jobs_exactly_once(database: Database, owner: int) -> None:
    samples.submit(database, owner, (f"{n:03}" for n in range(400)))
    taken: list[Claim] = []

    def work() -> None:
        while got := samples.claim(database, limit=7):
            taken.extend(job.claim for job in got)  # append is atomic

    together(*[work] * 8)
    assert sorted(claim.job_id for claim in taken) == [f"{n:03}" for n in range(400)]
    assert {claim.attempt for claim in taken} == {1}


def test_a_claim_never_takes_more_than_its_slots(database: Database, owner: int) -> None:
    samples.submit(database, owner, map(str, range(20)))
    sizes: list[int] = []
    together(*[lambda: sizes.append(len(samples.claim(database, limit=3)))] * 5)
    assert sizes == [3] * 5, "there was enough for everyone"


def submit_wide(database: Database, owner: int, widths: Mapping[str, int]) -> None:
    with database.transaction() as connection:
        for name, width in widths.items():
            submission.submit(connection, replace(samples.new(owner, name), width=width))


def test_slots_are_claimed_in_sequences_so_that_the_next_worker_gets_what_does_not_fit(
    database: Database, owner: int
) -> None:
    submit_wide(database, owner, {"a": 8, "b": 8, "c": 16, "d": 8, "e": 1})
    first = samples.claim(database, limit=32)
    assert [(job.claim.job_id, job.width) for job in first] == [("a", 8), ("b", 8), ("c", 16)]
    assert first[-1].followed, "more is due, at once"
    second = samples.claim(database, limit=32)
    assert [(job.claim.job_id, job.width) for job in second] == [("d", 8), ("e", 1)]
    assert not second[-1].followed


def test_a_job_wider_than_the_slots_is_claimed_alone_in_its_turn(database: Database, owner: int) -> None:
    submit_wide(database, owner, {"a": 1, "wide": 64, "b": 1})
    taken = [[job.claim.job_id for job in samples.claim(database, limit=32)] for _ in range(3)]
    assert taken == [["a"], ["wide"], ["b"]]


def test_a_cancel_that_races_with_a_claim_is_either_at_once_or_heard_by_the_worker(
    database: Database, owner: int
) -> None:
    for name in map(str, range(40)):
        samples.submit(database, owner, [name])
        claims: list[Claim] = []

        def give_up(name: str = name) -> None:
            with database.transaction() as connection:
                assert lifecycle.request_cancel(connection, name, owner) in (State.QUEUED, State.RUNNING)

        together(give_up, lambda held=claims: held.extend(j.claim for j in samples.claim(database)))
        with database.transaction() as connection:
            _, unwanted = lifecycle.heartbeat(connection, claims, LEASE)
        assert unwanted == set(claims), "the worker hears of it"
        assert samples.row(database, name).state == (State.RUNNING if claims else State.CANCELLED)
        with database.transaction() as connection:
            assert lifecycle.unwanted(connection, claims) == set(claims)
            assert lifecycle.settle(connection, [Ending(claim) for claim in claims]) == set(claims)
        assert samples.row(database, name).state == State.CANCELLED


def test_heartbeats_and_results_of_the_same_jobs_never_deadlock(database: Database, owner: int) -> None:
    samples.submit(database, owner, (f"{n:02}" for n in range(64)))
    stopping, failed = WorkerStopping("stopping"), InvalidPrompt("no")
    for turn in range(12):
        held = [job.claim for job in samples.claim(database)]
        assert len(held) == 64

        def beat(held: list[Claim] = held) -> None:
            with database.transaction() as connection:
                lifecycle.heartbeat(connection, held, LEASE)

        def end(held: list[Claim] = held[::-1], turn: int = turn) -> None:
            with database.transaction() as connection:  # in two groups, of which the second comes first by id
                endings = [
                    Ending(claim, error=failed if n % 2 else stopping, again=not n % 2)
                    for n, claim in enumerate(held)
                ]
                lifecycle.settle(connection, endings)

        together(beat, end, lambda reverse=held[::-1]: beat(reverse))
        gone = [claim.job_id for claim in held[::-1]][1::2]
        samples.submit(database, owner, (f"{name}x" for name in gone))


def test_a_group_of_64_mixed_endings_settles_in_one_go(database: Database, owner: int) -> None:
    samples.submit(database, owner, (f"{n:02}" for n in range(64)))
    held = [job.claim for job in samples.claim(database)]
    endings = [
        [
            Ending(claim, output={"text": claim.job_id}),
            Ending(claim, error=InvalidPrompt("no")),
            Ending(claim, error=OutOfMemory("no room"), again=True),
            Ending(claim, output={"text": "half"}),  # cancelled before
        ][n % 4]
        for n, claim in enumerate(held)
    ]
    with database.transaction() as connection:
        for claim in held[3::4]:
            lifecycle.request_cancel(connection, claim.job_id, owner)
        assert lifecycle.settle(connection, endings) == set(held)
    states = samples.states(database)
    expected = [State.SUCCEEDED, State.FAILED, State.QUEUED, State.CANCELLED]
    assert [states[f"{n:02}"] for n in range(64)] == expected * 16
    assert samples.row(database, "60").output == {"text": "60"}
    assert samples.row(database, "63").output == {"text": "half"}, "what was generated is kept"


def test_a_job_that_backs_off_is_not_claimed_before_its_time(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a"])
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, error=OutOfMemory("no room"), again=True)])
    samples.alter(database, "a", available_at=func.clock_timestamp() + timedelta(seconds=60))
    assert samples.claim(database) == []
    samples.alter(database, "a", available_at=func.clock_timestamp())
    [again] = samples.claim(database)
    assert (again.claim.attempt, again.failures) == (2, 1)


@pytest.mark.parametrize(("failures", "ceiling"), [(0, 1), (1, 2), (3, 8), (20, 60), (1000, 60)])
def test_a_failed_attempt_waits_by_chance_and_at_most_a_minute(
    database: Database, owner: int, monkeypatch: pytest.MonkeyPatch, failures: int, ceiling: int
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    samples.submit(database, owner, ["a"])
    samples.alter(database, "a", failures=failures)
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, error=OutOfMemory("no room"), again=True)])
    waits = samples.row(database, "a").available_at - samples.events_at(database, "a")[-1]
    assert abs(waits - timedelta(seconds=ceiling)) < timedelta(seconds=0.5)


def test_a_settled_row_holds_sql_null_where_there_is_nothing(database: Database, owner: int) -> None:
    """A JSON `null` would be neither NULL nor an object."""
    samples.submit(database, owner, ["good", "bad", "unwanted"])
    good, bad, unwanted = (job.claim for job in samples.claim(database))
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(good, output={}), Ending(bad, error=InvalidPrompt("no"))])
        lifecycle.request_cancel(connection, "unwanted", owner)
        lifecycle.settle(connection, [Ending(unwanted, error=OutOfMemory("no room"))])
    assert samples.is_null(database, "good") == {"output": False, "error": True}
    assert samples.is_null(database, "bad") == {"output": True, "error": False}
    assert samples.is_null(database, "unwanted") == {"output": True, "error": True}


def test_a_job_cancelled_after_a_failed_attempt_shows_no_error(database: Database, owner: int) -> None:
    samples.submit(database, owner, ["a"])
    [job] = samples.claim(database)
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, error=OutOfMemory("no room"), again=True)])
        lifecycle.request_cancel(connection, "a", owner)
    assert samples.row(database, "a").state == State.CANCELLED
    assert samples.is_null(database, "a") == {"output": True, "error": True}


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "Grüße, 你好, 👩‍👩‍👧",
        'quotes " \\ and \n lines',
        "\u0000",
        "half a pair \ud83d",
    ],
    ids=ascii,
)
def test_any_text_survives_the_way_in_and_the_way_out(database: Database, owner: int, text: str) -> None:
    """A byte-level tokenizer can write every byte; one such text must not hold up its whole group."""
    with database.transaction() as connection:
        submission.submit(connection, samples.new(owner, "a", input={"prompt": text}))
    [job] = samples.claim(database)
    assert job.input == {"prompt": text}
    with database.transaction() as connection:
        lifecycle.settle(connection, [Ending(job.claim, output={"text": text})])
    assert samples.row(database, "a").output == {"text": text}


def test_nothing_is_asked_of_the_database_for_nothing(database: Database) -> None:
    with database.transaction() as connection:
        assert lifecycle.heartbeat(connection, [], LEASE) == (set(), set())
        assert lifecycle.settle(connection, []) == set()


def test_a_rolled_back_submit_leaves_neither_job_nor_event(database: Database, owner: int) -> None:
    def submit_and_fail() -> None:
        with database.transaction() as connection:
            submission.submit(connection, samples.new(owner, "a"))
            raise RuntimeError("the request failed later")

    with pytest.raises(RuntimeError):
        submit_and_fail()
    assert samples.states(database) == {}
    with database.transaction() as connection:
        assert samples.events(connection, "a") == []


def test_models_that_jobs_wait_for_are_told_longest_first(database: Database, owner: int) -> None:
    with database.transaction() as connection:
        for name, model in (("1", "late"), ("2", "early"), ("3", "later"), ("4", "nobody's")):
            submission.submit(connection, replace(samples.new(owner, name), model=model))
    samples.alter(database, "2", created_at=lifecycle._NOW - timedelta(minutes=1))
    samples.alter(database, "3", available_at=lifecycle._NOW + timedelta(minutes=1))
    with database.transaction() as connection:
        asked = ["absent", "late", "later", "early"]
        assert claims.waiting(connection, samples.QUEUE, asked) == ["early", "late"]


def test_jobs_of_a_model_that_cannot_be_loaded_fail_unless_another_worker_has_it(
    database: Database, owner: int
) -> None:
    with database.transaction() as connection:
        for name, model in (("1", "broken"), ("2", "elsewhere"), ("3", "other")):
            submission.submit(connection, replace(samples.new(owner, name), model=model))
        submission.submit(connection, replace(samples.new(owner, "4", queue="finetune"), model="broken"))
        catalog.offer(connection, "w", [], {"broken": "why", "elsewhere": "why"})
        catalog.offer(connection, "v", [samples.version("elsewhere")], {})
        for model in ("broken", "elsewhere"):
            lifecycle.fail_unloadable(connection, samples.QUEUE, model, "why")
    queued = State.QUEUED
    assert samples.states(database) == {"1": State.FAILED, "2": queued, "3": queued, "4": queued}
    assert samples.row(database, "1").error == {"code": "model_unavailable", "message": "why"}
