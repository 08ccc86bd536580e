"""`/openapi.json`, and `/docs`, which shows it with Swagger UI from this server alone."""

from importlib import resources
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, render_template, send_file

from web.document import document
from web.errors import NotFound

blueprint = Blueprint("openapi", __name__, template_folder="templates")

_ASSETS = {"swagger_bundle.js": "text/javascript", "swagger_style.css": "text/css"}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the icons of Swagger UI stand in its style sheet
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)


@blueprint.get("/openapi.json")
def show() -> Response:
    """The OpenAPI document."""
    known: dict[str, Any] = current_app.extensions
    if "openapi" not in known:
        known["openapi"] = document(current_app)
    return jsonify(known["openapi"])


@blueprint.get("/docs")
def docs() -> str:
    """The document as a page, on which every call can be tried."""
    return render_template("docs.html")


@blueprint.get("/docs/<name>")
def asset(name: str) -> Response:
    """A part of Swagger UI."""
    if name not in _ASSETS:
        raise NotFound("There is nothing at this URL. The documentation is at /docs.", code="unknown_url")
    with resources.as_file(resources.files("offapi") / name) as path:
        return send_file(path, mimetype=_ASSETS[name])


@blueprint.after_request
def guard(response: Response) -> Response:
    """Forbid whatever the page does not need; an upgrade shows at the next visit."""
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Cache-Control"] = "no-cache"
    return response
