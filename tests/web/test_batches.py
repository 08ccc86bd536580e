"""Batches from their file to their files, with a clerk that may die and a worker that only pretends."""

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from jobs import batch_pruning, catalog, claims, lifecycle, pruning, sweeper
from jobs import batches as rows
from jobs.attempts import ClaimedJob, NewJob, Tier
from jobs.database import Database
from jobs.errors import InvalidPrompt, NumericalError
from jobs.lines import LONGEST, Flaw
from jobs.queue import Chore
from jobs.records import JobRecord
from jobs.settings import Settings
from jobs.tables import files, jobs, outbox
from tests.jobs import samples
from tests.web.batching import BODIES, COMPLETIONS, Desktop, line
from tests.web.conftest import Caller, FakeWorker, output, the_error
from web import batch_chore, batch_expansion, batch_output
from web.batch_chore import work
from web.desk import Desk
from web.endpoints import ENDPOINTS

HOUR = timedelta(hours=1)


@pytest.fixture
def desk(settings: Settings, offered: Database) -> Iterator[Desk]:
    """The clerk's."""
    opened = Desk.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def mine(offered: Database, settings: Settings, caller: Caller, key: str) -> Desktop:
    """Somebody's files and batches."""
    return Desktop(offered, settings, caller, key)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines in a transaction, and two in a page."""
    monkeypatch.setattr(batch_expansion, "_LINES", 2)
    monkeypatch.setattr(batch_output, "_PAGE", 2)


def run(desk: Desk, worker: FakeWorker, outcome: Callable[[ClaimedJob], Any]) -> None:
    """Let clerk and worker do all they can."""
    work(desk)
    while taken := worker.claim():
        for job in taken:
            worker.settle(job, outcome(job))
    work(desk)


def done(job: ClaimedJob) -> Any:
    return output(" text", finish="length")


@pytest.mark.parametrize("endpoint", BODIES)
def test_each_line_is_answered_as_its_endpoint_would(
    endpoint: str, mine: Desktop, desk: Desk, worker: FakeWorker
) -> None:
    batch = mine.create(mine.file([line("a", endpoint), line("b", endpoint)]), endpoint, metadata={"k": "v"})
    assert (batch["status"], batch["object"], batch["metadata"]) == ("validating", "batch", {"k": "v"})
    assert batch["expires_at"] - batch["created_at"] == 24 * 3600
    work(desk)
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["in_progress_at"] is not None) == ("in_progress", True)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert batch["model"] == BODIES[endpoint]["model"]
    run(desk, worker, done)
    batch = mine.get(batch["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert batch["usage"]["total_tokens"] == 10
    assert batch["error_file_id"] is None
    for custom_id, result in mine.results(batch).items():
        assert custom_id in ("a", "b")
        assert result["error"] is None
        assert result["response"]["status_code"] == 200
        assert result["response"]["request_id"].startswith("req_")
        assert " text" in str(result["response"]["body"])
        assert "total_tokens" in result["response"]["body"]["usage"]
    shown = mine.caller.get(f"/v1/files/{batch['output_file_id']}").get_json()
    assert (shown["purpose"], shown["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")
    assert "expires_at" not in shown


def test_what_the_endpoint_refuses_and_what_fails_goes_to_the_error_file(
    mine: Desktop, desk: Desk, worker: FakeWorker
) -> None:
    lines = [
        line("fine"),
        line("unknown", colour="red"),
        line("wrong", temperature="hot"),
        line("nobody", model="other"),
        line("streamed", stream=True),
        line("hooked", webhook={"url": "https://example.com"}),
        line("failing"),
        line("invalid"),
    ]
    batch = mine.create(mine.file(lines))
    work(desk)
    assert mine.get(batch["id"])["request_counts"] == {"total": 8, "completed": 0, "failed": 5}
    outcomes = iter([output("x"), NumericalError("not finite"), InvalidPrompt("too long")])
    run(desk, worker, lambda job: next(outcomes))
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["request_counts"]) == (
        "completed",
        {"total": 8, "completed": 1, "failed": 7},
    )
    assert [one["custom_id"] for one in mine.read(batch["output_file_id"])] == ["fine"]
    found = mine.results(batch)
    answers = {name: found[name]["response"] for name in found}
    got = {
        name: (answer["status_code"], answer["body"]["error"]["code"], answer["body"]["error"]["param"])
        for name, answer in answers.items()
        if name != "fine"
    }
    assert got == {
        "unknown": (400, "unknown_parameter", "colour"),
        "wrong": (400, "invalid_type", "temperature"),
        "nobody": (404, "model_not_found", "model"),
        "streamed": (400, "unsupported_value", "stream"),
        "hooked": (400, "unsupported_value", "webhook"),
        "failing": (500, "numerical_error", None),
        "invalid": (400, "invalid_prompt", "prompt"),
    }
    assert all(
        set(answer["body"]["error"]) == {"message", "type", "param", "code"}
        for answer in answers.values()
        if "error" in answer["body"]
    )


def test_lines_stand_in_the_lowest_tier_and_carry_their_batchs_key(
    mine: Desktop, desk: Desk, offered: Database
) -> None:
    batch = mine.create(mine.file([line("a")]))
    work(desk)
    with offered.transaction() as connection:
        row = connection.execute(select(jobs)).one()
    assert row.tier == Tier.BATCH
    assert (row.batch_id, row.line, row.custom_id, row.stored) == (batch["id"], 1, "a", False)
    assert row.api_key_id is not None
    assert mine.caller.get(f"/v1/responses/{row.id}").status_code == 404


def test_a_batch_waits_for_its_files_validation(mine: Desktop, desk: Desk) -> None:
    file_id = mine.file([line("a")], errors=None)
    batch = mine.create(file_id)
    work(desk)
    assert mine.get(batch["id"])["status"] == "validating"
    mine.validate(file_id, 1)
    work(desk)
    assert mine.get(batch["id"])["status"] == "in_progress"


def test_a_batch_whose_file_is_none_fails_with_its_lines(mine: Desktop, desk: Desk) -> None:
    flaw = Flaw("duplicate_custom_id", "The custom_id 'a' is there twice.", 2, "custom_id")
    batch = mine.create(mine.file([line("a"), line("a")], errors=[flaw]))
    work(desk)
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["failed_at"] is not None) == ("failed", True)
    assert batch["errors"] == {"object": "list", "data": [flaw.row()]}
    assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)


def test_a_batch_whose_file_is_for_another_endpoint_fails(mine: Desktop, desk: Desk) -> None:
    batch = mine.create(mine.file([line("a", "/v1/responses")]))
    work(desk)
    batch = mine.get(batch["id"])
    assert batch["status"] == "failed"
    (error,) = batch["errors"]["data"]
    assert (error["line"], error["param"]) == (1, "url")
    assert "/v1/responses" in error["message"]
    assert "/v1/completions" in error["message"]


def test_a_batch_waits_while_its_model_is_being_loaded(
    mine: Desktop, desk: Desk, offered: Database, settings: Settings, small: None
) -> None:
    with offered.transaction() as connection:
        catalog.offer(connection, "another", [], {}, loading=["soon"])
    batch = mine.create(mine.file([line("a"), line("b"), line("c"), line("d", model="soon")]))
    work(desk)
    assert mine.get(batch["id"])["status"] == "validating"
    assert len(samples.states(offered)) == 3
    with offered.transaction() as connection:
        catalog.withdraw(connection, "another")
    desk.offers._known = {}, 0.0
    work(desk)
    batch = mine.get(batch["id"])
    assert batch["status"] == "in_progress"
    assert batch["request_counts"]["failed"] == 1, "nobody offers it any more"
    assert len(samples.states(offered)) == 3


class Killed(BaseException):
    """As by SIGKILL: nobody catches it."""


def killed(monkeypatch: pytest.MonkeyPatch, desk: Desk, when: int) -> bool:
    """Work until the clerk dies, just before (even) or after (odd) a commit; False: it lived."""
    commits = itertools.count(1)
    transaction = Database.transaction

    @contextmanager
    def dying(self: Database) -> Iterator[Any]:
        with transaction(self) as connection:
            number = next(commits)
            yield connection
            if number * 2 == when:
                raise Killed
        if number * 2 + 1 == when:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", dying)
        try:
            work(desk)
        except Killed:
            return True
    return False


def test_a_clerk_killed_around_any_commit_loses_and_doubles_no_line(
    mine: Desktop, desk: Desk, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    names = {f"line {n}": {"colour": "red"} if n == 1 else {} for n in range(3)}
    file_id = mine.file(line(name, **changes) for name, changes in names.items())
    for phase in ("expansion", "finalization"):
        for when in itertools.count(2):
            batch = mine.create(file_id)
            if phase == "finalization":
                work(desk)
                for job in worker.claim():
                    worker.settle(job, output("x"))
            died = killed(monkeypatch, desk, when)
            run(desk, worker, done)
            batch = mine.get(batch["id"])
            assert batch["status"] == "completed", (phase, when)
            assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
            assert set(mine.results(batch)) == set(names)
            if not died:
                break
        assert when > 12, "it died at no commit"
    outputs = mine.caller.get("/v1/files?purpose=batch_output").get_json()["data"]
    batches = mine.caller.get("/v1/batches?limit=100").get_json()["data"]
    named = {batch[kind] for batch in batches for kind in ("output_file_id", "error_file_id")}
    assert {one["id"] for one in outputs} == named, "a file is registered that no batch names"


def test_two_clerks_at_once_do_it_once(
    mine: Desktop, desk: Desk, worker: FakeWorker, settings: Settings, small: None
) -> None:
    batches = [mine.create(mine.file(line(f"{n}") for n in range(9))) for _ in range(3)]
    other = Desk.open(settings)
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            for done_ in [pool.submit(work, one) for one in (desk, other)]:
                done_.result(timeout=30)
        for job in worker.claim():
            worker.settle(job, output("x"))
    other.close()
    for batch in batches:
        batch = mine.get(batch["id"])
        assert batch["request_counts"] == {"total": 9, "completed": 9, "failed": 0}
        assert len(mine.results(batch)) == 9


def test_a_clerk_that_comes_late_with_its_files_registers_none(
    mine: Desktop, desk: Desk, worker: FakeWorker
) -> None:
    batch = mine.create(mine.file([line("a")]))
    work(desk)
    worker.one(output("x"))
    with desk.database.transaction() as connection:
        assert rows.finish(connection, batch["id"])
    seen = rows_of(desk, batch["id"])
    assert [len(list(batch_output.finalize(desk, seen))) for _ in range(2)] == [1, 1]
    assert mine.get(batch["id"])["status"] == "completed"
    assert len(mine.caller.get("/v1/files?purpose=batch_output").get_json()["data"]) == 1


def test_a_cancel_stops_what_waits_and_what_runs_and_keeps_what_has_ended(
    mine: Desktop, desk: Desk, worker: FakeWorker, offered: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_chore, "_STOPPED", 2)
    batch = mine.create(mine.file(line(str(n)) for n in range(8)))
    work(desk)
    first, second = claim(offered, 2)
    worker.settle(first, output("kept"))
    assert mine.cancel(batch["id"])["status"] == "cancelling"
    assert mine.cancel(batch["id"])["status"] == "cancelling", "again is as good as once"
    work(desk)
    assert set(samples.states(offered).values()) == {"succeeded", "running", "cancelled"}
    with offered.transaction() as connection:
        assert lifecycle.unwanted(connection, [second.claim]) == {second.claim}
    assert mine.get(batch["id"])["status"] == "cancelling", "one still runs"
    worker.settle(second, output("part"))
    work(desk)
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["cancelled_at"] is not None) == ("cancelled", True)
    assert batch["request_counts"] == {"total": 8, "completed": 1, "failed": 0}
    found = mine.results(batch)
    assert len(found) == 8
    (kept,) = mine.read(batch["output_file_id"])
    assert kept["custom_id"] == "0"
    left = [one for one in found.values() if one["response"] is None]
    assert {one["error"]["code"] for one in left} == {"batch_cancelled"}
    assert len(left) == 7
    assert mine.cancel(batch["id"])["status"] == "cancelled"


def test_a_cancel_in_the_middle_of_the_expansion_leaves_no_line_out(
    mine: Desktop, desk: Desk, offered: Database, small: None
) -> None:
    batch = mine.create(mine.file([line("refused", colour="red"), *(line(str(n)) for n in range(6))]))
    with offered.transaction() as connection:
        steps = batch_expansion.expand(desk, rows.read(connection, batch["id"]))
    next(steps)
    mine.cancel(batch["id"])
    assert list(steps) == []
    assert len(samples.states(offered)) == 1, "nothing is expanded after the cancel"
    work(desk)
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["request_counts"]["failed"]) == ("cancelled", 1)
    found = mine.results(batch)
    assert len(found) == 7
    assert found["refused"]["response"]["status_code"] == 400
    assert found["5"]["error"]["code"] == "batch_cancelled"


def test_a_batch_that_is_cancelled_before_its_file_is_validated_leaves_no_files(
    mine: Desktop, desk: Desk
) -> None:
    batch = mine.create(mine.file([line("a")], errors=None))
    mine.cancel(batch["id"])
    work(desk)
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("cancelled", None, None)


def test_a_batch_whose_window_passes_keeps_what_has_ended(
    mine: Desktop, desk: Desk, worker: FakeWorker, offered: Database
) -> None:
    batch = mine.create(mine.file(line(str(n)) for n in range(4)))
    work(desk)
    first, second = claim(offered, 2)
    worker.settle(first, output("kept"))
    mine.let_expire(batch["id"])
    work(desk)
    seen = mine.get(batch["id"])
    assert (seen["status"], seen["expired_at"]) == ("finalizing", None), "one still runs"
    worker.settle(second, output("part"))
    work(desk)
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["expired_at"] is not None) == ("expired", True)
    found = mine.results(batch)
    assert len(found) == 4
    assert [found[str(n)]["error"]["code"] for n in (1, 2, 3)] == ["batch_expired"] * 3
    assert found["0"]["response"]["status_code"] == 200


def test_a_batch_whose_file_is_never_validated_expires(mine: Desktop, desk: Desk) -> None:
    batch = mine.create(mine.file([line("a")], errors=None))
    mine.let_expire(batch["id"])
    work(desk)
    assert mine.get(batch["id"])["status"] == "expired"


def test_a_line_that_makes_us_stumble_holds_up_nobody(
    mine: Desktop, desk: Desk, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = ENDPOINTS[COMPLETIONS]

    def clumsy(models: Any, who: Any, body: Any) -> NewJob:
        if body.get("user") == "clumsy":
            raise ZeroDivisionError
        return endpoint.new_job(models, who, body)

    def confused(models: Any, record: JobRecord) -> Any:
        if record.request["user"] == "confused":
            raise ZeroDivisionError
        return endpoint.answer(models, record)

    monkeypatch.setitem(ENDPOINTS, COMPLETIONS, replace(endpoint, new_job=clumsy, answer=confused))
    batch = mine.create(mine.file([line("a"), line("b", user="clumsy"), line("c", user="confused")]))
    run(desk, worker, done)
    batch = mine.get(batch["id"])
    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 2)
    found = mine.results(batch)
    assert [found[name]["response"]["status_code"] for name in "abc"] == [200, 500, 500]


def test_a_line_that_nobody_can_read_is_counted_too(
    mine: Desktop, desk: Desk, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_expansion, "_LINES", 1)
    batch = mine.create(mine.file([line("a"), line("b", prompt="x" * LONGEST)]))
    run(desk, worker, done)
    counts = mine.get(batch["id"])["request_counts"]
    assert counts == {"total": 2, "completed": 1, "failed": 1}


def test_a_batch_that_makes_us_stumble_holds_up_no_other(
    mine: Desktop, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = (mine.create(mine.file([line("a")])) for _ in range(2))

    def stumble(desk: Desk, batch: rows.Batch) -> Iterator[None]:
        if batch.id == bad["id"]:
            raise ZeroDivisionError
        yield from batch_expansion.expand(desk, batch)

    monkeypatch.setattr(batch_chore, "expand", stumble)
    work(desk)
    assert mine.get(bad["id"])["status"] == "validating"
    assert mine.get(good["id"])["status"] == "in_progress"


def test_a_large_batch_lets_a_small_one_pass(mine: Desktop, desk: Desk, small: None) -> None:
    large = mine.create(mine.file(line(str(n)) for n in range(30)))
    little = mine.create(mine.file([line("a")]))
    work(desk)
    started = [rows_of(desk, batch["id"]).in_progress_at for batch in (little, large)]
    assert started == sorted(started)


def test_the_sweeper_rings_while_a_batch_can_go_on_and_not_while_it_waits(
    mine: Desktop, desk: Desk, worker: FakeWorker, offered: Database
) -> None:
    def due() -> bool:
        with offered.transaction() as connection:
            return sweeper._CHORES[Chore.BATCHES](connection)

    assert not due()
    file_id = mine.file([line("a"), line("b")], errors=None)
    batch = mine.create(file_id)
    assert not due(), "its file is not validated"
    mine.validate(file_id, 2)
    assert due()
    work(desk)
    assert not due(), "its lines wait for a worker"
    first, second = claim(offered, 2)
    worker.settle(first, output("x"))
    assert not due(), "one still runs"
    mine.cancel(batch["id"])
    assert due(), "the one that runs is to be told"
    work(desk)
    assert not due()
    worker.settle(second, output("x"))
    assert due()
    work(desk)
    assert not due()


def test_lines_go_when_their_batch_has_ended_and_not_before(
    mine: Desktop, desk: Desk, worker: FakeWorker, offered: Database
) -> None:
    month, tiny = timedelta(days=30), timedelta(microseconds=1)
    batch = mine.create(mine.file([line("a"), line("b"), line("c", colour="red")]))
    work(desk)
    first, second = claim(offered, 2)
    worker.settle(first, output("x"))
    samples.alter(offered, first.claim.job_id, finished_at=func.now() - 2 * month)
    assert pruning.prune(offered, tiny) == 0
    worker.settle(second, output("x"))
    work(desk)
    with offered.transaction() as connection:
        assert not batch_pruning.is_prunable(connection, HOUR, month)
        assert batch_pruning.is_prunable(connection, tiny, month)
    assert batch_pruning.prune(offered, tiny, month) == 2
    assert samples.states(offered) == {}
    assert batch_pruning.prune(offered, tiny, month) == 0
    batch = mine.get(batch["id"])
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert len(mine.results(batch)) == 3
    batch_pruning.prune(offered, tiny, tiny)
    assert mine.caller.get(f"/v1/batches/{batch['id']}").status_code == 404


def test_output_files_expire_when_asked_to(mine: Desktop, desk: Desk, worker: FakeWorker) -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    batch = mine.create(mine.file([line("a")]), output_expires_after=expires)
    run(desk, worker, done)
    shown = mine.caller.get(f"/v1/files/{mine.get(batch['id'])['output_file_id']}").get_json()
    assert shown["expires_at"] - shown["created_at"] == 3600


def test_a_retried_create_is_one_batch(mine: Desktop, caller: Caller) -> None:
    asked = {"input_file_id": mine.file([line("a")]), "endpoint": COMPLETIONS, "completion_window": "24h"}
    made = [
        caller.send("POST", "/v1/batches", json.dumps(asked), x_stainless_retry_count=count).get_json()["id"]
        for count in ("0", "1", "0")
    ]
    assert made[0] == made[1] != made[2]


def test_its_owner_is_told_of_its_end(
    mine: Desktop, desk: Desk, worker: FakeWorker, offered: Database
) -> None:
    types = ["batch.completed", "response.completed"]
    asked = {"name": "a", "url": "https://example.com/", "event_types": types}
    assert mine.caller.post("/v1/webhook_endpoints", **asked).status_code == 200
    batch = mine.create(mine.file([line("a", "/v1/responses")]), "/v1/responses")
    run(desk, worker, done)
    with offered.transaction() as connection:
        told = connection.execute(select(outbox.c.type, outbox.c.resource_id)).all()
    assert told == [("batch.completed", batch["id"])]


def test_batches_are_listed_page_by_page_the_newest_first(mine: Desktop, stranger: Caller) -> None:
    file_id = mine.file([line("a")])
    made = [mine.create(file_id)["id"] for _ in range(3)][::-1]
    page = mine.caller.get("/v1/batches?limit=2").get_json()
    assert [one["id"] for one in page["data"]] == made[:2]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, made[0], made[1])
    rest = mine.caller.get(f"/v1/batches?limit=2&after={made[1]}").get_json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([made[2]], False)
    assert stranger.get("/v1/batches").get_json()["data"] == []


def test_somebody_elses_batch_and_file_are_like_missing_ones(mine: Desktop, stranger: Caller) -> None:
    file_id = mine.file([line("a")])
    batch_id, missing = mine.create(file_id)["id"], f"batch_{'0' * 32}"
    for method, path in (("GET", "{}"), ("POST", "{}/cancel"), ("GET", "?after={}")):
        answers = [
            stranger.send(method, f"/v1/batches/{path}".replace("/?", "?").format(one))
            for one in (batch_id, missing)
        ]
        errors = [the_error(answer, 404, None)["message"].replace(batch_id, missing) for answer in answers]
        assert errors[0] == errors[1]
    asked = {"endpoint": COMPLETIONS, "completion_window": "24h"}
    for foreign in (file_id, f"file-{'0' * 32}", "x"):
        error = the_error(stranger.post("/v1/batches", input_file_id=foreign, **asked), 404, None)
        assert error["param"] == "input_file_id"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_create_that_does_not_parse_names_the_parameter(
    change: dict[str, Any], param: str, mine: Desktop, caller: Caller
) -> None:
    asked = {"input_file_id": "file-x", "endpoint": COMPLETIONS, "completion_window": "24h"} | change
    answer = caller.post("/v1/batches", **asked)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)


def test_a_file_for_something_else_is_refused(mine: Desktop, offered: Database, caller: Caller) -> None:
    file_id = mine.file([line("a")])
    with offered.transaction() as connection:
        connection.execute(update(files).values(purpose="user_data"))
    asked = {"input_file_id": file_id, "endpoint": COMPLETIONS, "completion_window": "24h"}
    the_error(caller.post("/v1/batches", **asked), 400, "invalid_file_purpose")


def test_a_batch_that_has_ended_cannot_be_cancelled(mine: Desktop, desk: Desk, worker: FakeWorker) -> None:
    batch = mine.create(mine.file([line("a")]))
    run(desk, worker, done)
    answer = mine.caller.post(f"/v1/batches/{batch['id']}/cancel")
    the_error(answer, 409, "not_cancellable")
    assert answer.headers["x-should-retry"] == "false"


def test_the_file_of_an_open_batch_cannot_be_deleted(mine: Desktop, desk: Desk, worker: FakeWorker) -> None:
    file_id = mine.file([line("a")])
    mine.create(file_id)
    the_error(mine.caller.delete(f"/v1/files/{file_id}"), 409, "file_in_use")
    run(desk, worker, done)
    assert mine.caller.delete(f"/v1/files/{file_id}").status_code == 200


def claim(database: Database, limit: int) -> list[ClaimedJob]:
    """Claim as a worker with so many slots does."""
    with database.transaction() as connection:
        return claims.claim(connection, "generate", "starter", "w", HOUR, limit)


def rows_of(desk: Desk, batch_id: str) -> rows.Batch:
    with desk.database.transaction() as connection:
        return rows.read(connection, batch_id)
