"""The clerk reads a fine-tune's files as its model would, before any trainer sees it."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from jobs import finetunes
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.settings import Settings
from tests.web.conftest import CONTEXT, Caller
from tests.web.test_fine_tuning import JOBS, a_file, claim, create
from tests.web.test_fine_tuning_requests import asked
from web import fine_tuning_data, fine_tuning_review
from web.desk import Desk

GOOD = {"prompt": "def", "completion": " name"}
LONG = {"prompt": "def", "completion": " ~" * CONTEXT}


def jsonl(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture
def upload(caller: Caller, offered: Database, settings: Settings) -> Callable[..., str]:
    """A file that the clerk has found right by itself."""

    def make(content: bytes, owner: str = "somebody") -> str:
        made = a_file(offered, settings, content=content, owner=owner)
        with offered.transaction() as connection:
            connection.execute(text("UPDATE files SET status = 'processed' WHERE id = :id"), {"id": made})
        return made

    return make


def now(caller: Caller, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = caller.get(f"{JOBS}/{job['id']}").get_json()
    return found


def reviewed(caller: Caller, desk: Desk, file_id: str, **more: Any) -> dict[str, Any]:
    made = create(caller, file_id, **more)
    assert made["status"] == "validating_files"
    fine_tuning_review.work(desk, large=False)
    return now(caller, made)


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_an_answer_longer_than_the_block_fails_the_job_with_its_line(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    param: str,
) -> None:
    bad, good = upload(jsonl(GOOD, LONG, GOOD)), upload(jsonl(GOOD))
    files = {"validation_file": bad} if param == "validation_file" else {}
    ended = reviewed(caller, desk, good if files else bad, **files)
    assert (ended["status"], ended["error"]["code"]) == ("failed", f"invalid_{param}")
    assert ended["error"]["param"] == param
    assert "line 2: An answer has 129 tokens" in ended["error"]["message"]
    assert f"a block of {CONTEXT}" in ended["error"]["message"]


def test_the_block_asked_for_is_the_one_that_counts(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
) -> None:
    file_id = upload(jsonl({"prompt": "def", "completion": " ~" * 8}))
    assert reviewed(caller, desk, file_id)["status"] == "queued"
    assert reviewed(caller, desk, file_id, **asked({"block_size": 16}))["status"] == "failed"


def test_many_errors_are_told_by_the_first_and_their_number(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
) -> None:
    ended = reviewed(caller, desk, upload(jsonl(*[LONG] * 1200)))
    assert "line 10:" in ended["error"]["message"]
    assert "line 11:" not in ended["error"]["message"]
    assert ended["error"]["message"].endswith("And 1,190 more.")


@pytest.mark.parametrize(
    ("count", "asks", "status"),
    [
        (19, {"early_stopping_patience": 2}, "failed"),
        (19, {"load_best_model_at_end": True}, "failed"),
        (19, {}, "queued"),
        (20, {"early_stopping_patience": 2}, "queued"),
    ],
)
def test_who_wants_to_evaluate_needs_data_for_it(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    count: int,
    asks: dict[str, Any],
    status: str,
) -> None:
    ended = reviewed(caller, desk, upload(jsonl(*[GOOD] * count)), **asked(asks))
    assert ended["status"] == status
    if status == "failed":
        assert ended["error"]["param"] == "training_file"
        assert f"'{next(iter(asks))}' needs data" in ended["error"]["message"]
        assert "Send a 'validation_file'" in ended["error"]["message"]


def test_a_validation_file_is_data_to_evaluate_with(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
) -> None:
    file_id = upload(jsonl(GOOD))
    ended = reviewed(caller, desk, file_id, validation_file=file_id, **asked({"early_stopping_patience": 1}))
    assert ended["status"] == "queued"


def test_what_the_tokenizer_of_the_file_will_be_nobody_knows_yet(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
) -> None:
    ended = reviewed(caller, desk, upload(jsonl(LONG)), model="mine", init="scratch", architecture="tiny")
    assert ended["status"] == "queued"


def test_a_start_from_scratch_is_read_with_the_block_of_its_own_shape(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
) -> None:
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 200}
    file_id = upload(jsonl(LONG))
    assert reviewed(caller, desk, file_id, init="scratch", architecture=shape)["status"] == "queued"
    assert reviewed(caller, desk, file_id, init="scratch")["status"] == "failed"


def test_a_token_that_the_weights_do_not_have_is_an_error_of_its_line(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    offered: Database,
) -> None:
    made = create(caller, upload(jsonl({"text": "~"}, {"text": "return value"})))
    with offered.transaction() as connection:
        connection.execute(text("UPDATE model_versions SET vocab_size = 260"))
    fine_tuning_review.work(desk, large=False)
    assert "line 2: The tokenizer makes a token" in now(caller, made)["error"]["message"]


def test_a_model_that_is_offered_no_more_is_read_for_all_the_same(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    offered: Database,
) -> None:
    right, gone = (create(caller, upload(jsonl(GOOD)), model=name) for name in ("starter", "org/chat"))
    with offered.transaction() as connection:
        connection.execute(text("DELETE FROM offers"))
        connection.execute(text("DELETE FROM model_versions WHERE name = 'org/chat'"))
    fine_tuning_review.work(desk, large=False)
    assert now(caller, right)["status"] == "queued"
    assert now(caller, gone)["error"]["code"] == "model_unavailable"


def test_little_data_is_read_while_much_is(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetunes, "LARGE", 1000)
    much, little = create(caller, upload(jsonl(*[GOOD] * 100))), create(caller, upload(jsonl(GOOD)))
    reading, go_on = stuck(monkeypatch)
    slow = threading.Thread(target=fine_tuning_review.work, args=(desk, True))
    slow.start()
    try:
        assert reading.wait(10)
        fine_tuning_review.work(desk, large=False)
        assert (now(caller, much)["status"], now(caller, little)["status"]) == ("validating_files", "queued")
    finally:
        go_on.set()
        slow.join(10)
    assert now(caller, much)["status"] == "queued"


def stuck(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Let the first to read say so and wait."""
    reading, go_on = threading.Event(), threading.Event()
    read = fine_tuning_data.read

    def wait(*given: Any) -> Any:
        if not reading.is_set():
            reading.set()
            assert go_on.wait(20)
        return read(*given)

    monkeypatch.setattr(fine_tuning_data, "read", wait)
    return reading, go_on


def test_owners_take_turns(
    caller: Caller,
    stranger: Caller,
    desk: Desk,
    upload: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = [create(caller, upload(jsonl(GOOD)))["id"] for _ in range(3)]
    theirs = [create(stranger, upload(jsonl(GOOD), "somebody else"))["id"] for _ in range(2)]
    release, order = finetunes.release, []

    def note(connection: Connection, job_id: str) -> bool:
        order.append(job_id)
        return release(connection, job_id)

    monkeypatch.setattr(finetunes, "release", note)
    fine_tuning_review.work(desk, large=False)
    assert order == [mine[0], theirs[0], mine[1], theirs[1], mine[2]]


def test_no_transaction_is_open_while_files_are_read(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    offered: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create(caller, upload(jsonl(GOOD)))
    reading, go_on = stuck(monkeypatch)
    thread = threading.Thread(target=fine_tuning_review.work, args=(desk, False))
    thread.start()
    try:
        assert reading.wait(10)
        with offered.transaction() as connection:
            open_ones = text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
            assert connection.execute(open_ones).scalar() == 0
    finally:
        go_on.set()
        thread.join(10)


def test_a_clerk_that_is_killed_while_it_reads_changes_nothing(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = create(caller, upload(jsonl(GOOD)))

    def die(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning_data, "read", die)
        with pytest.raises(SystemExit):
            fine_tuning_review.work(desk, large=False)
    assert now(caller, made)["status"] == "validating_files"
    fine_tuning_review.work(desk, large=False)
    assert now(caller, made)["status"] == "queued"


def test_what_could_not_be_read_is_tried_again_and_keeps_nobody(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = create(caller, upload(jsonl(GOOD))), create(caller, upload(jsonl(GOOD, GOOD)))
    opened = ArtifactStore.open
    broken = [True]

    def fail_once(store: ArtifactStore, name: str) -> Any:
        if broken:
            broken.pop()
            raise OSError("the bucket is away")
        return opened(store, name)

    monkeypatch.setattr(ArtifactStore, "open", fail_once)
    fine_tuning_review.work(desk, large=False)
    assert (now(caller, first)["status"], now(caller, second)["status"]) == ("validating_files", "queued")
    fine_tuning_review.work(desk, large=False)
    assert now(caller, first)["status"] == "queued"


def test_a_job_that_is_cancelled_while_it_is_read_stays_so_and_is_read_no_further(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fine_tuning_review, "_LOOK_SECONDS", 0)
    made = create(caller, upload(jsonl(*[LONG] * 3000)))
    reading, go_on = stuck(monkeypatch)
    thread = threading.Thread(target=fine_tuning_review.work, args=(desk, False))
    thread.start()
    assert reading.wait(10)
    assert caller.send("POST", f"{JOBS}/{made['id']}/cancel").get_json()["status"] == "cancelled"
    go_on.set()
    thread.join(10)
    assert now(caller, made)["status"] == "cancelled"


def test_of_two_who_read_the_same_one_comes_too_late(
    caller: Caller, upload: Callable[..., str], offered: Database, settings: Settings
) -> None:
    made = create(caller, upload(jsonl(GOOD)))
    with offered.transaction() as connection:
        assert finetunes.release(connection, made["id"])
        assert not finetunes.release(connection, made["id"])
        assert not finetunes.refuse(connection, made["id"], finetunes.wrong_file("training_file", "f", [], 1))
    assert len(claim(offered, settings)) == 1


def test_a_clerk_that_stops_leaves_the_rest_for_the_next(
    caller: Caller,
    desk: Desk,
    upload: Callable[..., str],
) -> None:
    made = create(caller, upload(jsonl(GOOD)))
    answers = iter([False])
    fine_tuning_review.work(desk, False, lambda: next(answers, True))
    assert now(caller, made)["status"] == "validating_files"
