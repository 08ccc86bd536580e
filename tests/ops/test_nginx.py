"""What nginx says by itself, read without nginx."""

import json
import re
from pathlib import Path

from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine

from web.malformed import ANSWERS, MAX_HEADER

CONFIGURATION = (Path(__file__).parents[2] / "ops/nginx/nginx.conf.in").read_text()
SAID = dict(re.findall(r"location = (/errors/\w+) \{\s+return \d+ '(.*)\\n';", CONFIGURATION))


def test_every_error_of_nginx_is_openais_error_object() -> None:
    answered = set(re.findall(r"error_page [\d ]+ (\S+);", CONFIGURATION))
    assert answered == SAID.keys()
    for body in SAID.values():
        error = json.loads(body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] in ("invalid_request_error", "server_error")


def test_a_header_that_nginx_takes_is_taken_by_web() -> None:
    (size,) = re.findall(r"large_client_header_buffers \d+ (\d+)k;", CONFIGURATION)
    assert int(size) * 1024 == MAX_HEADER


def test_what_is_too_long_is_told_the_same_by_nginx_and_by_web() -> None:
    for place, kind in (("/errors/url", LimitRequestLine), ("/errors/header", LimitRequestHeaders)):
        error = json.loads(SAID[place])["error"]
        answer = ANSWERS[kind]
        assert (error["code"], error["message"]) == (answer.code, answer.message)
        assert f"return {answer.status[:3]} '{SAID[place]}" in CONFIGURATION


def test_the_log_holds_no_header_and_no_query() -> None:
    (log,) = re.findall(r"log_format (.*?);", CONFIGURATION, flags=re.DOTALL)
    assert not re.search(r"\$(http_|request_uri|args|query_string|request\b)", log)


def test_nginx_writes_only_where_a_read_only_root_lets_it() -> None:
    written = re.findall(r"(?:_temp_path|pid) (\S+);", CONFIGURATION)
    assert len(written) == 6
    assert all(path.startswith("/tmp/") for path in written)


def test_only_files_may_be_large_and_they_go_through_unbuffered() -> None:
    places = dict(re.findall(r"location (= /v1/files|/) \{(.*?)\n        \}", CONFIGURATION, flags=re.DOTALL))
    assert "client_max_body_size @FILE_KB@k;" in places["= /v1/files"]
    assert "proxy_request_buffering off;" in places["= /v1/files"]
    assert places["/"].split() == ["proxy_pass", "$web;"]
    assert CONFIGURATION.count("client_max_body_size") == 2
