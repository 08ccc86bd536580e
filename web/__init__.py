"""HTTP in, rows out: the Flask application and the order in which a request passes."""

import secrets
import time

import structlog
from flask import Flask, Response, g, request

from jobs.settings import Settings
from web import (
    batches,
    chat,
    completions,
    errors,
    exports,
    files,
    fine_tuning,
    health,
    limits,
    metrics,
    models,
    openapi,
    page,
    responses,
    usage,
    webhooks,
)
from web.auth import require
from web.backend import Backend, backend
from web.wire import Application

_HEADERS = tuple(
    (name, name.lower(), value)
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    )
)
"""Of every answer that does not set its own."""


def create_app(settings: Settings) -> Flask:
    """The application, with its threads running: call it in the process that serves, after the fork."""
    app = Application(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.max_body_mb * 1_000_000)
    app.url_map.merge_slashes = False  # a redirect is no answer for a client of the API
    app.extensions["penstock"] = Backend.open(settings)
    app.before_request(_begin)
    app.after_request(_add_headers)
    app.teardown_request(_forget_name)
    errors.register(app)
    for module in (
        responses,
        completions,
        chat,
        files,
        batches,
        fine_tuning,
        exports,
        models,
        webhooks,
        usage,
        health,
        openapi,
        page,
    ):
        app.register_blueprint(module.blueprint)
    return app


def _begin() -> None:
    """Give the request its name. Everything under /v1 needs a key that allows it, also what is not there."""
    name = f"req_{secrets.token_hex(16)}"
    g.began, g.request_id = time.perf_counter(), name
    structlog.contextvars.bind_contextvars(request_id=name)
    if request.path.startswith("/v1"):
        common = backend()
        limits.admit_request(common.limiter, require(common.keys))


def _forget_name(_error: BaseException | None) -> None:
    structlog.contextvars.unbind_contextvars("request_id")  # the thread serves others


def _add_headers(response: Response) -> Response:
    headers = response.headers
    present = {name.lower() for name, _ in headers}
    # added, not set: setting looks through all of them for each
    headers.add("x-request-id", g.request_id)
    headers.add("openai-processing-ms", str(round((time.perf_counter() - g.began) * 1000)))
    for name, lower, value in _HEADERS:
        if lower not in present:
            headers.add(name, value)
    limits.add_headers(headers)
    metrics.observe(response)
    return response
