"""`/docs` in a browser that has no network."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flask import Flask
from playwright.sync_api import Browser, expect
from werkzeug.serving import make_server

from tests.end_to_end.page.browser import visit
from web import (
    batches,
    chat,
    completions,
    files,
    fine_tuning,
    health,
    models,
    openapi,
    page,
    responses,
    usage,
    webhooks,
)

pytestmark = pytest.mark.browser


@contextmanager
def serving() -> Iterator[str]:
    """Every route, with nothing behind any but the documentation's."""
    app = Flask("web", static_folder=None)
    for module in (
        responses,
        completions,
        chat,
        files,
        batches,
        fine_tuning,
        models,
        webhooks,
        usage,
        health,
        openapi,
        page,
    ):
        app.register_blueprint(module.blueprint)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_documentation_shows_every_call_and_what_it_takes(browser: Browser) -> None:
    with serving() as url, visit(browser, f"{url}/docs") as shown:
        expect(shown.locator("h1, h2").first).to_contain_text("Penstock", timeout=20_000)
        expect(shown.locator(".opblock")).to_have_count(40)
        create = shown.locator(".opblock").filter(has_text="Take a job; answer with its events")
        create.locator(".opblock-summary-control").click()
        expect(create.locator(".opblock-body")).to_contain_text("application/json")
        expect(create.locator(".responses-table")).to_contain_text("The request cannot be taken as it is.")
        expect(create.get_by_role("button", name="Try it out")).to_be_visible()
