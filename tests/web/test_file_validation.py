"""What the clerk finds in an uploaded file, by line number, and that it never stumbles over one."""

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jobs import files, sweeper
from jobs.database import Database
from jobs.files import FileRecord, NewFile
from jobs.lines import Flaw
from jobs.settings import Settings
from tests.jobs.test_lines import MB, Blocks, Chained, growth
from tests.jobs.test_sweeper import MONTH, Bells
from web import file_validation
from web.alone import Alone
from web.desk import Desk
from web.file_validation import batch_findings, training_findings, work

REQUEST = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"model": "m", "prompt": "p"},
}


@pytest.fixture
def desk(settings: Settings, database: Database) -> Iterator[Desk]:
    made = Desk.open(settings)
    yield made
    made.close()


def jsonl(*records: Any) -> bytes:
    return b"".join(
        record if isinstance(record, bytes) else json.dumps(record).encode() + b"\n" for record in records
    )


def flaws(found: Iterator[Flaw | int]) -> list[Flaw]:
    return [one for one in found if isinstance(one, Flaw)]


def of_batch(raw: bytes) -> list[Flaw]:
    return flaws(batch_findings(io.BytesIO(raw), len(raw)))


def of_training(raw: bytes, name: str = "data") -> list[Flaw]:
    return flaws(training_findings(io.BytesIO(raw), name))


def uploaded(
    desk: Desk, owner: int, data: bytes, purpose: str = "batch", name: str = "in.jsonl"
) -> FileRecord:
    with desk.store.writer() as writer:
        writer.write(data)
        artifact = files.keep(desk.database, writer)
    with desk.database.transaction() as connection:
        return files.create(connection, NewFile(owner, name, purpose, len(data), artifact))


def now(desk: Desk, record: FileRecord) -> FileRecord:
    with desk.database.transaction() as connection:
        found = files.find(connection, record.owner_id, record.id)
    assert found is not None
    return found


def test_requests_with_names_of_their_own_are_a_batch() -> None:
    assert of_batch(jsonl(REQUEST, REQUEST | {"custom_id": "b", "body": {}}, b"\n")) == []


BAD_LINES: dict[str, tuple[Any, str, str | None, str]] = {
    "no JSON": (b"{\n", "invalid_json_line", None, "not JSON"),
    "no object": (b"[]\n", "invalid_json_line", None, "not a JSON object"),
    "blank": (b"\n", "invalid_json_line", None, "blank"),
    "duplicate key": (
        b'{"custom_id":"b","custom_id":"c"}\n',
        "duplicate_parameter",
        "custom_id",
        "given twice",
    ),
    "no custom_id": ({**REQUEST, "custom_id": None}, "missing_required_parameter", "custom_id", "Missing"),
    "doubled custom_id": (REQUEST, "duplicate_custom_id", "custom_id", "Another line"),
    "custom_id of a number": ({**REQUEST, "custom_id": 7}, "invalid_type", "custom_id", "expected a string"),
    "empty custom_id": ({**REQUEST, "custom_id": ""}, "empty_string", "custom_id", "empty"),
    "long custom_id": ({**REQUEST, "custom_id": "x" * 513}, "string_above_max_length", "custom_id", "512"),
    "GET": ({**REQUEST, "custom_id": "b", "method": "GET"}, "invalid_value", "method", "'POST'"),
    "unknown url": (
        {**REQUEST, "custom_id": "b", "url": "/v1/files"},
        "invalid_value",
        "url",
        "/v1/responses",
    ),
    "another url": (
        {**REQUEST, "custom_id": "b", "url": "/v1/responses"},
        "mismatched_url",
        "url",
        "/v1/compl",
    ),
    "no body": ({**REQUEST, "custom_id": "b", "body": None}, "missing_required_parameter", "body", "Missing"),
    "body of text": (
        {**REQUEST, "custom_id": "b", "body": "x"},
        "invalid_type",
        "body",
        "expected an object",
    ),
    "unknown field": ({**REQUEST, "custom_id": "b", "bodi": {}}, "unknown_parameter", "bodi", "mean 'body'"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_no_request_is_named(name: str) -> None:
    line, code, param, words = BAD_LINES[name]
    [flaw] = of_batch(jsonl(REQUEST, line, {**REQUEST, "custom_id": "last"}))
    assert (flaw.line, flaw.code, flaw.param) == (2, code, param)
    assert words in flaw.message


def test_a_batch_has_its_limits() -> None:
    assert [flaw.code for flaw in flaws(batch_findings(io.BytesIO(b""), 200_000_001))] == ["file_too_large"]
    lines = [REQUEST | {"custom_id": str(number)} for number in range(50_001)]
    assert of_batch(jsonl(*lines[:-1])) == []
    [flaw] = of_batch(jsonl(*lines))
    assert (flaw.code, flaw.line) == ("too_many_lines", None)


GOOD_DATA = {
    "plain text": (b"Once upon a time,\nthere was\n", "tale"),
    "plain text that begins like JSON": (b"{ I said\n", "tale.txt"),
    "lyrics": (b"[Verse 1]\nLa la\n", "song"),
    "texts": (jsonl({"text": "Once"}, {"text": "upon"}), "a.jsonl"),
    "completions": (jsonl({"prompt": "", "completion": " b"}, {"prompt": "c", "completion": "d"}), "a"),
    "Alpaca lines": (
        jsonl({"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "output": "d"}),
        "a",
    ),
    "Alpaca array": (
        json.dumps([{"instruction": "a", "output": "b", "text": 7}], indent=1).encode(),
        "a.json",
    ),
    "chats": (
        jsonl(
            {
                "messages": [
                    {"role": "system", "content": "a"},
                    {"role": "assistant", "content": "b", "weight": 1},
                ]
            }
        ),
        "a",
    ),
    "with a byte order mark": (b"\xef\xbb\xbf" + jsonl({"text": "Once"}), "a"),
}


@pytest.mark.parametrize("name", GOOD_DATA)
def test_every_form_of_training_data_is_taken(name: str) -> None:
    raw, filename = GOOD_DATA[name]
    assert of_training(raw, filename) == []


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


ANSWER = {"role": "assistant", "content": "b"}
BAD_DATA: dict[str, tuple[bytes, int | None, str, str | None]] = {
    "Latin-1 text": (b"caf\xc3\xa9\ncaf\xe9", 2, "invalid_utf8", None),
    "text with NUL": (b"a\nb\n\0", 3, "invalid_text", None),
    "nothing but blanks": (b" \n\n", None, "empty_file", None),
    "broken JSON": (jsonl({"text": "a"}, b'{"text": \n', {"text": "b"}), 2, "invalid_json_line", None),
    "no known fields": (jsonl({"a": 1}), 1, "unknown_format", None),
    "mixed layouts": (
        jsonl({"text": "a"}, {"prompt": "a", "completion": "b"}),
        2,
        "missing_required_parameter",
        "text",
    ),
    "empty text": (jsonl({"text": "a"}, {"text": "  "}), 2, "empty_string", "text"),
    "no completion": (jsonl({"prompt": "a"}), 1, "missing_required_parameter", "completion"),
    "completion of a number": (jsonl({"prompt": "a", "completion": 1}), 1, "invalid_type", "completion"),
    "no output": (jsonl({"instruction": "a", "output": ""}), 1, "empty_string", "output"),
    "input of null": (jsonl({"instruction": "a", "input": None, "output": "b"}), 1, "invalid_type", "input"),
    "Alpaca array": (
        b'[{"instruction":"a","output":"b"},\n\n{"instruction":"a"}]',
        3,
        "missing_required_parameter",
        "output",
    ),
    "broken array": (b'[{"instruction":"a","output":"b"}\n{}]', 2, "invalid_json", None),
    "no messages": (jsonl(chat()), 1, "invalid_type", "messages"),
    "message of text": (jsonl(chat("a", ANSWER)), 1, "invalid_type", "messages[0]"),
    "unknown role": (
        jsonl(chat({"role": "tool", "content": "a"}, ANSWER)),
        1,
        "invalid_value",
        "messages[0].role",
    ),
    "role of a list": (
        jsonl(chat({"role": [], "content": "a"}, ANSWER)),
        1,
        "invalid_value",
        "messages[0].role",
    ),
    "no content": (
        jsonl(chat({"role": "user"}, ANSWER)),
        1,
        "missing_required_parameter",
        "messages[0].content",
    ),
    "weight": (jsonl(chat(ANSWER | {"weight": 2})), 1, "invalid_value", "messages[0].weight"),
    "no answers": (jsonl(chat({"role": "user", "content": "a"})), 1, "no_answer", "messages"),
    "no answer that counts": (jsonl(chat(ANSWER | {"weight": 0})), 1, "no_answer", "messages"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_training_data_is_named_by_its_line(name: str) -> None:
    raw, line, code, param = BAD_DATA[name]
    [flaw] = of_training(raw)
    assert (flaw.line, flaw.code, flaw.param) == (line, code, param)
    assert flaw.message.endswith(".")


def test_a_good_file_is_processed_and_its_users_hear_of_it(desk: Desk, owner: int, monkeypatch: Any) -> None:
    rung: list[str] = []
    monkeypatch.setattr(desk.signals, "ring", rung.append)
    batch = uploaded(desk, owner, jsonl(REQUEST, REQUEST | {"custom_id": "b"}))
    data = uploaded(desk, owner, b"Once\nupon", "fine-tune", "tale.txt")
    work(desk)
    for record in (batch, data):
        found = now(desk, record)
        assert (found.status, found.lines, found.status_details, found.errors) == ("processed", 2, None, None)
    assert rung == ["clerk.batches", "clerk.finetunes"]


def test_the_first_errors_are_kept_and_the_others_counted(desk: Desk, owner: int) -> None:
    record = uploaded(desk, owner, jsonl(REQUEST, *[b"{\n"] * 150))
    work(desk)
    found = now(desk, record)
    assert found.errors is not None
    assert (found.status, len(found.errors), found.lines) == ("error", 100, 151)
    assert [error["line"] for error in found.errors[:3]] == [2, 3, 4]
    assert found.status_details is not None
    assert found.status_details.startswith("Line 2: The line is not JSON (")
    assert found.status_details.endswith("And 147 more errors.")


@pytest.mark.parametrize("data", [b"", b"\n\n \n"])
@pytest.mark.parametrize("purpose", ["batch", "fine-tune"])
def test_a_file_without_lines_is_an_error(desk: Desk, owner: int, data: bytes, purpose: str) -> None:
    record = uploaded(desk, owner, data, purpose)
    work(desk)
    found = now(desk, record)
    assert (found.status, found.status_details) == ("error", "The file has no lines.")


def test_a_file_whose_bytes_are_lost_is_an_error(desk: Desk, owner: int) -> None:
    record = uploaded(desk, owner, jsonl(REQUEST | {"custom_id": "lost"}))
    desk.store.remove(record.artifact)
    work(desk)
    assert now(desk, record).errors == [
        {
            "code": "file_lost",
            "message": "The bytes of this file are gone. Upload it again.",
            "line": None,
            "param": None,
        }
    ]


def test_a_file_over_which_we_stumble_holds_up_no_other(desk: Desk, owner: int, monkeypatch: Any) -> None:
    first, second = (uploaded(desk, owner, jsonl(REQUEST | {"custom_id": name})) for name in "ab")
    opened = desk.store.open

    def stumble(name: str) -> Any:
        if name == first.artifact:
            raise OSError("out of reach")
        return opened(name)

    with monkeypatch.context() as broken:
        broken.setattr(type(desk.store), "open", lambda _self, name: stumble(name))
        work(desk)
    assert (now(desk, first).status, now(desk, second).status) == ("uploaded", "processed")
    bells = Bells()
    sweeper.sweep(desk.database, bells, MONTH)
    assert "clerk.validate" in bells.rung
    work(desk)
    assert now(desk, first).status == "processed"


def test_a_file_may_be_deleted_while_it_is_read(desk: Desk, owner: int, monkeypatch: Any) -> None:
    record = uploaded(desk, owner, jsonl(REQUEST))
    validate = file_validation.validate

    def delete_first(*given: Any) -> Any:
        with desk.database.transaction() as connection:
            assert files.lock(connection, owner, record.id)
            files.remove(connection, record.id)
        return validate(*given)

    monkeypatch.setattr(file_validation, "validate", delete_first)
    work(desk)
    with desk.database.transaction() as connection:
        assert files.find(connection, owner, record.id) is None


def test_one_large_file_takes_one_thread_and_ends_with_the_process(
    desk: Desk, owner: int, monkeypatch: Any
) -> None:
    record = uploaded(desk, owner, jsonl(REQUEST, REQUEST))
    reading, go_on, stop = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: Any) -> Iterator[Flaw | int]:
        reading.set()
        assert go_on.wait(10)
        yield 1

    with monkeypatch.context() as large:
        large.setattr(file_validation, "batch_findings", slow)
        chore = Alone(lambda: work(desk, stop.is_set))
        thread = threading.Thread(target=chore.rung)
        thread.start()
        assert reading.wait(10)
        chore.rung()  # returns at once: the other thread is at it
        stop.set()
        go_on.set()
        thread.join(10)
    assert now(desk, record).status == "uploaded"
    work(desk)
    assert now(desk, record).status == "error"


def test_validation_costs_little_memory_whatever_the_file_holds() -> None:
    body = b'"method":"POST","url":"/v1/completions","body":{"prompt":"' + b"x" * 900 + b'"}}\n'
    numbered = b"".join(b'{"custom_id":"%d",%s' % (number, body) for number in range(1000))
    bombs = [
        batch_findings(Blocks(numbered, 50), 50 * len(numbered)),  # 50,000 lines, 50 MB
        batch_findings(Blocks(b"{}\n" * 20_000, 500), MB),
        batch_findings(Blocks(b"x" * 65_536, 16_384), MB),
        training_findings(Seekable(b'{"text":"', Blocks(b"x" * 65_536, 8_000)), "a.jsonl"),
        training_findings(Seekable(b"", Blocks(b"x" * 65_536, 8_000)), "a.txt"),
    ]
    for bomb in bombs:
        assert growth(bomb) < 40


class Seekable(Chained):
    """Begins again once it was looked at."""

    def __init__(self, begin: bytes, rest: Any) -> None:
        super().__init__(begin, rest)
        self._first = begin

    def seek(self, _offset: int, _whence: int = 0) -> int:
        self._begin = self._first
        return 0


@pytest.mark.parametrize("line", ['{"%s": 1, "%s": 2}', '{"%s": 1, "url": "%s"}', '{"%s": "\\u0000%s"}'])
def test_what_is_said_of_a_line_is_short_however_long_its_names_are(line: str) -> None:
    name = "n" * 1_000_000
    raw = (line % (name, name)).encode() + b"\n"
    for found in (of_batch(raw), of_training(raw)):
        (flaw,) = found
        assert len(flaw.message) < 400
        assert len(flaw.param or "") < 200
