"""Errors tell whoever asks what to send, and nothing of how this is made."""

import random
import re

import pytest
from flask import Flask
from sqlalchemy import text

from jobs.database import Database
from jobs.settings import Settings
from tests.web.conftest import Caller, issue, opened, rows
from tests.web.things import known

INSIDES = re.compile(
    r"Traceback|File \"|line \d+, in |site-packages|/srv/|/usr/|psycopg|sqlalchemy|werkzeug|pydantic|"
    r"SELECT |INSERT |\bat 0x[0-9a-f]{6}|object at|Exception|\.py\b",
    re.IGNORECASE,
)
BITS = [
    b"", b"{}", b"[]", b"null", b"0", b'"x"', b"{", b"\xff\xfe", b"\0", b"{'a': 1}", b'{"a": NaN}',
    b'{"model": {}}', b'{"model": ["starter"]}', b'{"model": "starter", "input": {"a": [1]}}',
    b'{"model": "starter", "prompt": "\\ud800"}', b'{"model": 1e999}', b'{"": ""}', b'{"id": null}',
    b'{"input_file_id": "file-' + b"0" * 32 + b'"}', b'{"training_file": "x", "model": "starter"}',
    b'{"name": "a", "url": "gopher://x", "event_types": []}', b"[" * 100_000, b"x" * 100_000,
]  # fmt: skip
QUERIES = [
    "",
    "?",
    "?limit=-1",
    "?after=%00",
    "?order=;",
    "?a[b]=c",
    "?wait=1e999",
    "?%ff=%ff",
    "?stream=1&stream=2",
]
METHODS = [
    "GET",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "HEAD",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "X" * 40,
]
HEADERS: list[dict[str, str | None]] = [
    {},
    {"Content_Type": None},
    {"Content_Type": "application/json; charset=utf-7"},
    {"Content_Type": "multipart/form-data; boundary="},
    {"Accept": "text/html", "Accept_Language": "\xe9"},
    {"Range": "bytes=9-1"},
    {"If_None_Match": '"'},
    {"Idempotency_Key": "x" * 300},
    {"Idempotency_Key": "\x01"},
    {"X_Stainless_Retry_Count": "-1"},
    {"X_Forwarded_For": "' OR 1=1", "X_Forwarded_Proto": "gopher"},
    {"Last_Event_ID": "x"},
]


def test_no_answer_of_any_route_shows_what_is_inside(app: Flask, caller: Caller, offered: Database) -> None:
    draw = random.Random(6)
    ids = known(caller)
    before = rows(offered)
    paths = []
    for rule in app.url_map.iter_rules():
        for names in (ids, dict.fromkeys(ids, "x"), dict.fromkeys(ids, "%ff")):
            paths.append(
                re.sub(r"<(?:\w+:)?(\w+)>", lambda found, names=names: names.get(found[1], "x"), rule.rule)
            )
    for path in sorted(set(paths)):
        if "/content" in path or not path.startswith("/v1"):
            continue  # a file's own bytes, and the page with its script
        for _ in range(25):
            method, data = draw.choice(METHODS), draw.choice(BITS)
            if method == "DELETE" or path.endswith("/cancel"):
                continue  # what is there shall stay
            answer = caller.send(method, path + draw.choice(QUERIES), data=data, **draw.choice(HEADERS))
            where = (method, path, data[:40], answer.status_code, answer.text[:300])
            assert answer.status_code != 500, where
            assert answer.headers["x-request-id"].startswith("req_"), where
            if answer.status_code >= 400:
                assert not INSIDES.search(answer.text), where
                if method not in ("HEAD", "head"):
                    assert answer.get_json()["error"]["message"], where
    assert rows(offered) - before < 60, "some of these are requests"


def test_a_crash_says_no_more_than_that_and_its_log_has_the_rest(
    settings: Settings, offered: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("secret-of-the-house /srv/inside.py SELECT 1")

    with opened(settings) as app:
        caller = Caller(app, issue(offered, "somebody"))
        for endpoint in ("models.index", "files.index", "usage.index", "page.show", "health.ready"):
            monkeypatch.setitem(app.view_functions, endpoint, crash)
        for path in ("/v1/models", "/v1/files", "/v1/usage", "/", "/readyz"):
            answer = caller.get(path)
            assert answer.status_code == 500
            assert answer.headers["x-request-id"].startswith("req_")
            assert "secret-of-the-house" not in answer.text
            assert not INSIDES.search(answer.text)


def test_an_error_of_the_database_is_not_told(settings: Settings, offered: Database, key: str) -> None:
    with opened(settings) as app:
        caller = Caller(app, key)
        caller.get("/v1/models")
        with offered.transaction() as connection:
            connection.execute(text("ALTER TABLE files RENAME TO files_away"))
        try:
            answer = caller.get("/v1/files")
        finally:
            with offered.transaction() as connection:
                connection.execute(text("ALTER TABLE files_away RENAME TO files"))
    assert answer.status_code == 500
    assert not INSIDES.search(answer.text), answer.text
    assert "files" not in answer.get_json()["error"]["message"]
