"""The OpenAPI document says what the routes say, all of them."""

import re
from typing import Any

import pytest
from flask import Flask

from tests.web.conftest import Caller
from web.document import path_of
from web.operations import OPERATIONS
from web.query import Query


@pytest.fixture
def described(app: Flask) -> dict[str, Any]:
    answer = Caller(app, None).get("/openapi.json")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    found: dict[str, Any] = answer.get_json()
    return found


def test_every_route_of_the_api_is_in_the_document(app: Flask, described: dict[str, Any]) -> None:
    routes = {
        (path_of(rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert routes <= documented
    assert {path for path, _ in documented - routes} == {"/healthz", "/readyz"}


def test_the_document_shows_the_models_with_which_the_views_parse(app: Flask) -> None:
    for name, operation in OPERATIONS.items():
        if name.startswith("health."):
            continue
        named = app.view_functions[name].__code__.co_names
        assert operation.query.__name__ in named, f"{name} does not parse its query with {operation.query}"
        if operation.body is not None and operation.body.__name__ != "Form":  # `receive` parses that
            assert operation.body.__name__ in named, f"{name} does not parse its body with {operation.body}"
        if operation.query is Query:
            assert not any(other.endswith("Query") and other != "Query" for other in named), name


def test_every_operation_has_a_summary_a_tag_and_its_refusals(described: dict[str, Any]) -> None:
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            assert one["summary"].strip(), (path, method)
            assert one["tags"], (path, method)
            if path.startswith("/v1"):
                assert {"400", "401", "403", "429", "503"} <= set(one["responses"]), (path, method)
                assert ("404" in one["responses"]) >= ("{" in path), (path, method)
            else:
                assert one["security"] == []
    assert described["security"] == [{"key": []}]


def test_nothing_refers_to_what_is_not_in_the_document(described: dict[str, Any]) -> None:
    components = described["components"]
    for reference in re.findall(r"'\$ref': '#/components/([^']+)'", str(described)):
        kind, _, name = reference.partition("/")
        assert name in components[kind]


def test_a_null_and_what_changes_nothing_are_documented(described: dict[str, Any]) -> None:
    asked = described["components"]["schemas"]["ResponseRequest"]["properties"]
    assert {"type": "null"} in asked["temperature"]["anyOf"]
    assert asked["tools"]["enum"] == [None, []]
    assert asked["model"]["type"] == "string"


def test_the_page_and_its_parts_come_from_here(app: Flask) -> None:
    anybody = Caller(app, None)
    page = anybody.get("/docs")
    assert page.status_code == 200
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    parts = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(parts) >= 4
    for part in parts:
        with anybody.get(part) as answer:
            assert answer.status_code == 200, part
    assert "//" not in "".join(parts)
    assert anybody.get("/docs/../web/wsgi.py").status_code == 404
