"""The JSON body of a request, as a dictionary."""

import hashlib
from collections.abc import Mapping
from typing import Any

from flask import g, request
from werkzeug.exceptions import RequestEntityTooLarge

from jobs import strict_json
from jobs.strict_json import NotStrict
from web.errors import BadRequest, UnsupportedEncoding
from web.malformed import NOT_HTTP

_JSON = "application/json"
_INSTEAD = 'Send a JSON object such as {"model": "...", "input": "..."}.'


def optional_json_object() -> dict[str, Any]:
    """The request's body; an empty one, as clients send it with a JSON content type, says nothing.

    Raises:
        As `json_object`.
    """
    return (
        {} if not request.content_length and not request.headers.get("Transfer-Encoding") else json_object()
    )


def json_object() -> dict[str, Any]:
    """The request's body.

    Raises:
        BadRequest: it is not one unambiguous JSON object in UTF-8.
        UnsupportedEncoding: it is compressed.
        RequestEntityTooLarge: it is over the limit (werkzeug's error).
    """
    environ = request.environ
    if environ.get("CONTENT_TYPE") != _JSON and request.mimetype != _JSON:
        got = f"Unsupported content type: '{request.mimetype}'."
        raise BadRequest(f"{got} Send 'Content-Type: application/json'.", code="unsupported_content_type")
    if environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise UnsupportedEncoding("Compressed bodies are not taken. Send plain JSON.")
    value = _parsed(_whole(environ))
    if not isinstance(value, dict):
        raise BadRequest(f"The request body must be a JSON object. {_INSTEAD}", code="invalid_json")
    return value


def _whole(environ: Mapping[str, Any]) -> bytes:
    length, limit = request.content_length, request.max_content_length
    if length is not None and limit is not None and length <= limit:
        raw: bytes = environ["wsgi.input"].read(length)
        if len(raw) < length:
            said = f"The request body broke off: of {length:,} bytes that were announced, {len(raw):,} came."
            raise BadRequest(f"{said} Send it again.", code="malformed_request")
    else:
        raw = _unknown(limit)
    g.body_digest = hashlib.sha256(raw).digest()  # a repeated request is known by it
    return raw


def _unknown(limit: int | None) -> bytes:
    """A body in chunks, whose length nobody said, or one that is too long."""
    try:
        raw = request.get_data(cache=False)
    except NOT_HTTP:
        said = "The chunks of the request body are not well-formed."
        raise BadRequest(f"{said} Send it with a 'Content-Length'.", code="malformed_request") from None
    if limit is not None and len(raw) >= limit:
        raise RequestEntityTooLarge  # of a body without a length, werkzeug cuts off the rest in silence
    return raw


def _parsed(raw: bytes) -> Any:
    try:
        return strict_json.parse(raw)
    except NotStrict as error:
        said = error.about("The request body")
        if error.code == "invalid_json":
            said = f"{said} {_INSTEAD}"
        raise BadRequest(said, param=error.param, code=error.code) from None
