"""What a browser does for others: no answer becomes a page, and no other site's page can act for a user."""

import re
from typing import Any

import pytest
from flask import Flask

from jobs.database import Database
from tests.web.conftest import Caller, FakeWorker, output, rows
from tests.web.test_files import put
from tests.web.things import known

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
EVIL = "https://evil.example"


def everywhere(app: Flask, ids: dict[str, str]) -> list[tuple[str, str]]:
    """Every method of every URL, of something that is there."""
    names = ids | {"filename": "page.css", "name": "swagger-ui.css"}
    return [
        (method, re.sub(r"<(?:\w+:)?(\w+)>", lambda found: names[found[1]], rule.rule))
        for rule in app.url_map.iter_rules()
        for method in sorted(rule.methods or ())
        if method != "DELETE"
    ]


def test_no_answer_can_be_framed_sniffed_or_run(app: Flask, caller: Caller) -> None:
    for method, path in everywhere(app, known(caller)):
        answer = caller.send(method, path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, path
        assert "frame-ancestors 'none'" in policy, path
        assert "unsafe-eval" not in policy, path
        assert "http:" not in policy, path
        assert "*" not in policy, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Referrer-Policy"] == "no-referrer", path
        if path.startswith("/v1") and answer.data:
            assert answer.mimetype != "text/html", path
            assert "unsafe" not in policy, path
        answer.close()


def test_markup_in_a_result_a_name_or_an_error_is_never_html(caller: Caller, worker: FakeWorker) -> None:
    made = caller.post(
        "/v1/responses", model="starter", input=SCRIPT, background=True, metadata={"a": SCRIPT}
    ).get_json()
    worker.one(output(SCRIPT))
    file = put(caller, SCRIPT.encode(), name="page.html")
    answers = [
        caller.get(f"/v1/responses/{made['id']}"),
        caller.get(f"/v1/models/{SCRIPT}"),
        caller.get(f"/v1/files?purpose={SCRIPT}"),
        caller.get(f"/{SCRIPT}"),
        caller.post("/v1/responses", **{SCRIPT: 1}),
        caller.get(f"/v1/files/{file['id']}"),
    ]
    assert SCRIPT in answers[0].get_json()["output"][0]["content"][0]["text"]
    for answer in answers:
        assert answer.mimetype == "application/json"
    content = caller.get(f"/v1/files/{file['id']}/content")
    assert content.mimetype == "application/octet-stream"
    assert content.headers["Content-Disposition"].startswith("attachment")


FORMS: list[dict[str, Any]] = [
    {"Content_Type": "text/plain"},
    {"Content_Type": "application/x-www-form-urlencoded"},
    {"Content_Type": "multipart/form-data; boundary=x"},
    {"Content_Type": None},
    {"Content_Type": "application/json"},
]
AS_A_BROWSER = {"Origin": EVIL, "Referer": f"{EVIL}/", "Sec_Fetch_Site": "cross-site"}
COOKIES = ["session=1", "Authorization=Bearer {key}", "api_key={key}", "token={key}"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form["Content_Type"]))
def test_another_site_s_form_does_nothing_whatever_the_browser_remembers(
    app: Flask, caller: Caller, key: str, offered: Database, form: dict[str, Any]
) -> None:
    ids = known(caller)
    before = rows(offered)
    body = '{"model": "starter", "input": "d", "background": true}'
    for method, path in everywhere(app, ids):
        if method == "POST":
            for cookie in COOKIES:
                how = AS_A_BROWSER | form | {"Cookie": cookie.format(key=key)}
                answer = Caller(app, None).send(method, path, data=body, **how)
                assert answer.status_code == 401, path
    url = f"/v1/responses?api_key={key}&key={key}&access_token={key}"
    assert Caller(app, None).send("POST", url, data=body, **AS_A_BROWSER).status_code == 401
    assert rows(offered) == before


def test_there_are_no_cookies_and_no_other_site_may_read(app: Flask, caller: Caller) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    for method, path in everywhere(app, known(caller)):
        for one in (caller, Caller(app, None)):
            answer = one.send(method, path, **AS_A_BROWSER, **asked)
            assert "Set-Cookie" not in answer.headers, path
            found = [name for name, _ in answer.headers if name.lower().startswith("access-control")]
            assert found == [], path
            answer.close()
