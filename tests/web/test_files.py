"""Files over HTTP: what comes back is what was sent, to its owner alone, and bad uploads leave nothing."""

import errno
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from flask import Flask
from fsspec.implementations.local import LocalFileOpener
from openai import OpenAI
from sqlalchemy import func, insert, select, update
from werkzeug.http import parse_options_header

from jobs import files, lifecycle, published, submission
from jobs.attempts import NewJob, Tier
from jobs.database import Database
from jobs.published import Published
from jobs.settings import Settings
from jobs.tables import batches
from jobs.tables import files as rows
from tests.jobs import samples
from tests.web.conftest import Caller, the_error
from web import file_validation
from web.desk import Desk

BOUNDARY = "the-boundary"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
Part = tuple[str, str | bytes, str | None]
PURPOSE: Part = ("purpose", "user_data", None)
FILE: Part = ("file", b"hello", "a.txt")


def form(*parts: Part) -> bytes:
    """A form of (name, value, filename) in this order."""
    body = b""
    for name, value, filename in parts:
        head = f'Content-Disposition: form-data; name="{name}"'
        if filename is not None:
            head += f'; filename="{filename}"\r\nContent-Type: application/octet-stream'
        sent = value if isinstance(value, bytes) else value.encode()
        body += f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + sent + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def upload(caller: Caller, *parts: Part, **headers: str) -> Any:
    return caller.send("POST", "/v1/files", data=form(*parts), **{"Content_Type": KIND, **headers})


def put(
    caller: Caller, data: bytes = b"hello", purpose: str = "user_data", name: str = "a.txt"
) -> dict[str, Any]:
    answer = upload(caller, ("purpose", purpose, None), ("file", data, name))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def count(database: Database) -> int:
    with database.transaction() as connection:
        return connection.execute(select(func.count()).select_from(rows)).scalar_one()


def aside(settings: Settings) -> list[Path]:
    """What is left of uploads that were not kept."""
    return list((settings.var_dir / "artifacts" / "aside").iterdir())


@pytest.fixture
def client(address: str, key: str) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{address}/v1", api_key=key, max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


def test_a_strict_client_uploads_reads_lists_and_deletes(client: OpenAI) -> None:
    data = bytes(range(256)) * 3000
    made = client.files.create(
        file=("bytes.bin", data), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(data),
        "bytes.bin",
        "user_data",
        "processed",
    )
    assert made.expires_at == made.created_at + 3600
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == data
    assert [file.id for file in client.files.list()] == [made.id]
    assert client.files.wait_for_processing(made.id).status == "processed"
    gone = client.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_a_strict_client_pages_through_its_files(client: OpenAI, caller: Caller) -> None:
    made = [
        put(caller, purpose=purpose)["id"]
        for purpose in ("vision", "batch", "vision", "assistants", "vision")
    ]
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc", purpose="vision")] == made[::2]
    page = caller.get("/v1/files?limit=2").get_json()
    assert (page["object"], page["has_more"], page["first_id"], page["last_id"]) == (
        "list",
        True,
        made[4],
        made[3],
    )
    page = caller.get(f"/v1/files?after={made[1]}").get_json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([made[0]], False)
    assert caller.get("/v1/files?purpose=batch_output").get_json()["first_id"] is None


@pytest.mark.parametrize("purpose", ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"])
def test_every_purpose_of_an_upload_is_shown_as_a_strict_client_takes_it(
    client: OpenAI, purpose: Any
) -> None:
    made = client.files.create(file=b"hello", purpose=purpose)
    assert made.purpose == ("user_data" if purpose == "evals" else purpose)
    assert made.status == ("uploaded" if purpose in files.VALIDATED else "processed")
    assert (made.expires_at is not None) == (purpose == "batch")
    assert [file.id for file in client.files.list(purpose=purpose)] == [made.id]


def test_the_parts_may_come_in_any_order(caller: Caller) -> None:
    life: list[Part] = [
        ("expires_after[seconds]", "3600", None),
        ("expires_after[anchor]", "created_at", None),
    ]
    made = upload(caller, FILE, life[0], PURPOSE, life[1]).get_json()
    assert (made["bytes"], made["expires_at"]) == (5, made["created_at"] + 3600)


def test_bytes_like_those_of_the_form_stay_in_the_file_wherever_a_block_of_the_body_ends(
    caller: Caller,
) -> None:
    head = form(PURPOSE, ("file", b"", "a.txt")).rindex(b"\r\n--")
    like = f"\r\n--{BOUNDARY[:-1]}-\r\n--{BOUNDARY}".encode()[:-1] + b"\r\n\r"
    for cut in range(len(like) + len(BOUNDARY) + 8):  # the first block ends so far inside all this
        data = b"x" * (262_144 - head - cut) + like
        made = put(caller, data)
        assert caller.get(f"/v1/files/{made['id']}/content").data == data, cut


NAMES = {
    "plain": "a b.txt",
    "a path": "../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "other alphabets": "отчёт 日本.jsonl",
    "quotes": "a%22b%22.txt",
    "semicolons": "a;b=c.txt",
    "percent": "100%.txt",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_filename_is_text_and_nothing_else(caller: Caller, settings: Settings, name: str) -> None:
    shown = NAMES[name].replace("%22", '"')
    made = put(caller, name=NAMES[name])
    assert made["filename"] == shown
    answer = caller.get(f"/v1/files/{made['id']}/content")
    kind, options = werkzeug_options(answer.headers["Content-Disposition"])
    assert (kind, options["filename"]) == ("attachment", shown)
    kept = {path.name for path in (settings.var_dir / "artifacts").rglob("*") if path.is_file()}
    assert all(len(one) == 64 for one in kept)


def werkzeug_options(header: str) -> tuple[str, dict[str, str]]:
    assert header.isascii()
    return parse_options_header(header)


def seconds(value: str) -> tuple[Part, ...]:
    anchor: Part = ("expires_after[anchor]", "created_at", None)
    return PURPOSE, FILE, anchor, ("expires_after[seconds]", value, None)


BAD: dict[str, tuple[tuple[Part, ...], str | None, str]] = {
    "no file": ((PURPOSE,), "file", "missing_required_parameter"),
    "no purpose": ((FILE,), "purpose", "missing_required_parameter"),
    "purpose of ours": ((("purpose", "batch_output", None), FILE), "purpose", "invalid_value"),
    "unknown purpose": ((FILE, ("purpose", "x", None)), "purpose", "invalid_value"),
    "purpose in other bytes": ((FILE, ("purpose", b"\xff", None)), "purpose", "invalid_value"),
    "long purpose": ((FILE, ("purpose", "x" * 2000, None)), "purpose", "string_above_max_length"),
    "unknown field": ((PURPOSE, ("owner_id", "7", None), FILE), "owner_id", "unknown_parameter"),
    "two files": ((PURPOSE, FILE, FILE), "file", "duplicate_parameter"),
    "two purposes": ((PURPOSE, FILE, PURPOSE), "purpose", "duplicate_parameter"),
    "file without a name": ((PURPOSE, ("file", b"hello", None)), "file", "invalid_file"),
    "empty name": ((PURPOSE, ("file", b"hello", "")), "file", "invalid_file"),
    "long name": ((PURPOSE, ("file", b"hello", "x" * 256)), "file", "invalid_filename"),
    "NUL in the name": ((PURPOSE, ("file", b"hello", "a\0b")), "file", "invalid_filename"),
    "line end in the name": ((PURPOSE, ("file", b"hello", "a%0D%0Ab")), "file", "invalid_filename"),
    "empty file": ((PURPOSE, ("file", b"", "a.txt")), "file", "empty_file"),
    "short life": (seconds("3599"), "expires_after.seconds", "integer_below_min_value"),
    "long life": (seconds("2592001"), "expires_after.seconds", "integer_above_max_value"),
    "life in words": (seconds("soon"), "expires_after.seconds", "invalid_type"),
    "no anchor": (
        seconds("3600")[:2] + seconds("3600")[3:],
        "expires_after.anchor",
        "missing_required_parameter",
    ),
    "other anchor": (
        (PURPOSE, FILE, ("expires_after[anchor]", "now", None), ("expires_after[seconds]", "3600", None)),
        "expires_after.anchor",
        "invalid_value",
    ),
    "many parts": (
        (PURPOSE, FILE, *[("expires_after[x]", "", None)] * 20),
        "expires_after[x]",
        "unknown_parameter",
    ),
    "no parts": ((), "purpose", "missing_required_parameter"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_form_is_told_what_to_send_and_leaves_nothing(
    caller: Caller, offered: Database, settings: Settings, name: str
) -> None:
    parts, param, code = BAD[name]
    error = the_error(upload(caller, *parts), 400, code)
    assert error["param"] == param
    assert (count(offered), aside(settings)) == (0, [])


GOOD = form(PURPOSE, FILE)
NO_FORMS: dict[str, tuple[bytes, str, str]] = {
    "JSON": (b"{}", "application/json", "unsupported_content_type"),
    "no boundary": (GOOD, "multipart/form-data", "malformed_form"),
    "another boundary": (GOOD, "multipart/form-data; boundary=other", "malformed_form"),
    "cut off": (GOOD[:-20], KIND, "malformed_form"),
    "cut off in the head": (GOOD[:60], KIND, "malformed_form"),
    "empty": (b"", KIND, "missing_required_parameter"),
    "long header": (GOOD.replace(b"a.txt", b"a" * 10_000), KIND, "malformed_form"),
    "endless header": (GOOD[:60] + b"a" * 100_000, KIND, "malformed_form"),
    "many headers": (
        GOOD.replace(b"\r\n\r\n", b"\r\n" + b"A: b\r\n" * 20 + b"\r\n", 1),
        KIND,
        "malformed_form",
    ),
    "no names": (GOOD.replace(b"; name=", b"; x="), KIND, "unknown_parameter"),
}


@pytest.mark.parametrize("name", NO_FORMS)
def test_what_is_no_form_is_refused(caller: Caller, offered: Database, settings: Settings, name: str) -> None:
    body, kind, code = NO_FORMS[name]
    the_error(caller.send("POST", "/v1/files", data=body, Content_Type=kind), 400, code)
    assert (count(offered), aside(settings)) == (0, [])


def test_a_compressed_form_is_refused(caller: Caller) -> None:
    the_error(upload(caller, PURPOSE, FILE, Content_Encoding="gzip"), 415, None)


def test_only_files_may_be_large_and_they_too_have_a_limit(
    app: Flask, caller: Caller, offered: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = settings.model_copy(update={"max_file_mb": 0.1})
    monkeypatch.setitem(app.extensions, "penstock", replace(app.extensions["penstock"], settings=limited))
    monkeypatch.setitem(app.config, "MAX_CONTENT_LENGTH", 10_000)
    put(caller, b"x" * 100_000)
    for length, chunks in ((100_001, False), (1_000_000, False), (100_001, True), (1_000_000, True)):
        body = form(PURPOSE, ("file", b"x" * length, "a.txt"))
        sent = io.BytesIO(body) if chunks else body
        answer = caller.send("POST", "/v1/files", data=sent, Content_Type=KIND)
        assert "at most 0.1 MB" in the_error(answer, 413, "request_too_large")["message"]
        assert aside(settings) == []
    the_error(caller.post("/v1/responses", input="x" * 20_000), 413, "request_too_large")
    assert count(offered) == 1


def test_a_full_disk_keeps_nothing(
    caller: Caller, offered: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(LocalFileOpener, "write", full)
        answer = upload(caller, PURPOSE, FILE)
    error = the_error(answer, 503, "storage_failed")
    assert "No space left on device" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert (count(offered), aside(settings)) == (0, [])
    put(caller)


RANGES = {
    "from the beginning": ("bytes=0-3", "0123", "bytes 0-3/10"),
    "from the middle": ("bytes=7-", "789", "bytes 7-9/10"),
    "the last": ("bytes=-2", "89", "bytes 8-9/10"),
    "more than there is": ("bytes=8-99", "89", "bytes 8-9/10"),
    "one byte": ("bytes=9-9", "9", "bytes 9-9/10"),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_range_of_the_content_can_be_had(caller: Caller, name: str) -> None:
    asked, text, shown = RANGES[name]
    made = put(caller, b"0123456789")
    answer = caller.send("GET", f"/v1/files/{made['id']}/content", Range=asked)
    assert (answer.status_code, answer.text, answer.headers["Content-Range"]) == (206, text, shown)
    assert answer.headers["Content-Length"] == str(len(text))


def test_the_content_comes_whole_where_a_range_makes_no_sense(caller: Caller) -> None:
    url = f"/v1/files/{put(caller, b'0123456789')['id']}/content"
    for asked in (None, "bytes=0-1,3-4", "lines=1-2", "bytes=x", "bytes=5-2"):
        answer = caller.send("GET", url, Range=asked)
        assert (answer.status_code, answer.text) == (200, "0123456789"), asked
        assert (answer.headers["Accept-Ranges"], answer.mimetype) == ("bytes", "application/octet-stream")
    error = caller.send("GET", url, Range="bytes=10-")
    the_error(error, 416, "range_not_satisfiable")
    assert error.headers["Content-Range"] == "bytes */10"


def test_the_content_is_known_by_its_hash(caller: Caller) -> None:
    one, two = put(caller, b"0123456789"), put(caller, b"0123456789", name="b.txt")
    etag = caller.get(f"/v1/files/{one['id']}/content").headers["ETag"]
    again = caller.send("GET", f"/v1/files/{two['id']}/content", If_None_Match=etag)
    assert (again.status_code, again.data) == (304, b"")
    other = caller.send("GET", f"/v1/files/{one['id']}/content", Range="bytes=0-1", If_Range='"other"')
    assert (other.status_code, other.text) == (200, "0123456789")
    head = caller.send("HEAD", f"/v1/files/{one['id']}/content")
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "10")


def test_somebody_elses_file_is_no_file(caller: Caller, stranger: Caller) -> None:
    made = put(caller)["id"]
    for name in (made, "file-" + "0" * 32, "file-x", "..", "a" * 5000):
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            error = the_error(stranger.send(method, f"/v1/files/{name}{path}"), 404, None)
            assert error["message"] == f"No such File object: '{name[:100]}'."
    assert the_error(stranger.get(f"/v1/files?after={made}"), 404, None)["param"] == "after"
    assert stranger.get("/v1/files").get_json()["data"] == []
    assert caller.get(f"/v1/files/{made}").status_code == 200


@pytest.mark.parametrize("asked", ["limit=0", "limit=10001", "order=up", "purpose=x", "foo=1"])
def test_a_bad_query_is_refused(caller: Caller, asked: str) -> None:
    answer = caller.get(f"/v1/files?{asked}")
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == asked.split("=")[0]


def test_a_file_that_is_needed_cannot_be_deleted(caller: Caller, offered: Database) -> None:
    made = put(caller, b"{}", "batch")["id"]
    with offered.transaction() as connection:
        owner = connection.execute(select(rows.c.owner_id)).scalar_one()
        known = {"endpoint": "/v1/completions", "completion_window": "24h", "metadata": {}}
        values = {"id": "batch_1", "owner_id": owner, "input_file_id": made, "status": "validating"}
        connection.execute(insert(batches).values(expires_at=func.now(), **known, **values))
        job = NewJob(
            "ftjob-1", owner, files.FINETUNE, "train", "m", Tier.STANDARD, {}, {"training_file": made}
        )
        submission.submit(connection, job)
    for user in ("batch 'batch_1'", "fine-tuning job 'ftjob-1'"):
        answer = caller.delete(f"/v1/files/{made}")
        assert user in the_error(answer, 409, "file_in_use")["message"]
        assert answer.headers["x-should-retry"] == "false"
        with offered.transaction() as connection:
            connection.execute(update(batches).values(status="completed"))
    with offered.transaction() as connection:
        assert lifecycle.request_cancel(connection, "ftjob-1", owner)
    assert caller.delete(f"/v1/files/{made}").get_json() == {
        "id": made,
        "object": "file",
        "deleted": True,
        "trained_models": [],
    }


def test_a_repeated_upload_is_answered_with_the_same_file(caller: Caller, offered: Database) -> None:
    first = upload(caller, PURPOSE, FILE, x_stainless_retry_count="0").get_json()
    body = form(PURPOSE, FILE).replace(BOUNDARY.encode(), b"another")
    kind = "multipart/form-data; boundary=another"
    again = caller.send("POST", "/v1/files", data=body, Content_Type=kind, x_stainless_retry_count="1")
    assert again.get_json() == first
    for other in ((PURPOSE, ("file", b"other", "a.txt")), (PURPOSE, ("file", b"hello", "b.txt"))):
        assert upload(caller, *other, x_stainless_retry_count="1").get_json()["id"] != first["id"]
    assert upload(caller, PURPOSE, FILE, x_stainless_retry_count="0").get_json()["id"] != first["id"]
    assert count(offered) == 4


def test_an_upload_rings_for_its_validation(
    client: OpenAI, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[str] = []
    monkeypatch.setattr(app.extensions["penstock"].signals, "ring", rung.append)
    client.files.create(file=b"hello", purpose="user_data")
    assert rung == []
    made = client.files.create(file=("in.jsonl", json.dumps({"text": "a"}).encode()), purpose="fine-tune")
    assert (made.status, rung) == ("uploaded", ["clerk.validate"])


def test_what_the_validation_found_is_told(caller: Caller, client: OpenAI, settings: Settings) -> None:
    made = put(caller, b"{}\n[]\n", "batch", "in.jsonl")
    assert caller.get(f"/v1/files/{made['id']}").headers["openai-poll-after-ms"] == "1000"
    desk = Desk.open(settings)
    file_validation.work(desk)
    desk.close()
    found = client.files.wait_for_processing(made["id"])
    assert found.status == "error"
    assert found.status_details is not None
    assert (
        "Line 1: Missing required parameter: 'custom_id'. Line 2: The line is not a JSON"
        in found.status_details
    )


def test_a_file_whose_bytes_are_lost_says_so(caller: Caller, app: Flask, database: Database) -> None:
    made = put(caller, b"lost")
    with database.transaction() as connection:
        artifact = connection.execute(select(rows.c.artifact).where(rows.c.id == made["id"])).scalar_one()
    app.extensions["penstock"].artifacts.remove(artifact)
    the_error(caller.get(f"/v1/files/{made['id']}/content"), 404, "file_lost")


def test_deleting_a_file_tells_which_models_learned_from_it(
    caller: Caller, stranger: Caller, offered: Database
) -> None:
    made, same = put(caller, b"abc", "user_data"), put(caller, b"abc", "user_data")
    other = put(caller, b"def", "user_data")
    with offered.transaction() as connection:
        record = connection.execute(select(rows).where(rows.c.id == made["id"])).one()

        def publish(name: str, **lineage: str) -> None:
            version = samples.version(name, name)
            published.publish(
                connection, Published(version, record.owner_id, name, lineage, None, {"a": "b"})
            )

        publish("ft:direct", training_file=made["id"], base="starter")
        publish("ft:same bytes", training_file=same["id"], training_sha256=record.artifact)
        publish("ft:descendant", training_file=other["id"], base="ft:direct")
        publish("ft:judged", training_file=other["id"], validation_file=made["id"])
    put(stranger, b"abc", "user_data")
    gone = caller.delete(f"/v1/files/{made['id']}").get_json()
    assert gone["trained_models"] == ["ft:direct", "ft:same bytes", "ft:descendant"]
    assert caller.delete(f"/v1/files/{other['id']}").get_json()["trained_models"] == [
        "ft:descendant",
        "ft:judged",
    ]
