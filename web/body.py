"""The JSON body of a request, as a dictionary that PostgreSQL can keep: no NUL, no half characters."""

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from web.errors import BadRequest, UnsupportedEncoding
from web.malformed import NOT_HTTP

_MOST_DIGITS = 300  # of an integer: still finite as a float
_INSTEAD = 'Send a JSON object such as {"model": "...", "input": "..."}.'


def json_object() -> dict[str, Any]:
    """The request's body.

    Raises:
        BadRequest: it is not one unambiguous JSON object in UTF-8.
        UnsupportedEncoding: it is compressed.
        RequestEntityTooLarge: it is over the limit (werkzeug's error).
    """
    if request.mimetype != "application/json":
        got = f"Unsupported content type: '{request.mimetype}'."
        raise BadRequest(f"{got} Send 'Content-Type: application/json'.", code="unsupported_content_type")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedEncoding("Compressed bodies are not taken. Send plain JSON.")
    value = _parsed(_whole())
    if not isinstance(value, dict):
        raise BadRequest(f"The request body must be a JSON object. {_INSTEAD}", code="invalid_json")
    return value


def _whole() -> bytes:
    try:
        raw = request.get_data(cache=False)
    except NOT_HTTP:
        said = "The chunks of the request body are not well-formed."
        raise BadRequest(f"{said} Send it with a 'Content-Length'.", code="malformed_request") from None
    limit = request.max_content_length
    if request.content_length is None and limit is not None and len(raw) >= limit:
        raise RequestEntityTooLarge  # of a body without a length, werkzeug cuts off the rest in silence
    return raw


def _parsed(raw: bytes) -> Any:
    if not raw:
        raise BadRequest(f"The request body is empty. {_INSTEAD}", code="invalid_json")
    try:
        text = raw.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:  # only an escape can hide what UTF-8 itself cannot carry
            _refuse_unstorable(value, "")
    except UnicodeDecodeError:
        raise BadRequest("The request body is not UTF-8. Send JSON in UTF-8.", code="invalid_json") from None
    except RecursionError:
        said = "The request body is nested too deeply. Send a flatter object."
        raise BadRequest(said, code="invalid_json") from None
    except ValueError as error:
        reason = str(error).split(";")[0]
        said = f"We could not parse the JSON body of your request ({reason})."
        raise BadRequest(f"{said} {_INSTEAD}", code="invalid_json") from None
    return value


def _unambiguous(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise BadRequest(f"'{twice}' is given twice. Send it once.", param=twice, code="duplicate_parameter")
    return found


def _finite(text: str) -> float:
    """The number, or the largest of all: that is over every limit as well, and its field will say so."""
    number = float(text)
    return number if math.isfinite(number) else math.copysign(sys.float_info.max, number)


def _integer(text: str) -> int:
    """The number, or its first digits: those are over every limit as well, and its field will say so."""
    return int(text[:_MOST_DIGITS])


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unambiguous, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
)


def _refuse_unstorable(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_unstorable(name, path)
            _refuse_unstorable(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_unstorable(item, f"{path}[{index}]")
    elif isinstance(value, str) and (hidden := _unstorable(value)):
        said = f"'{path or 'a name'}' contains {hidden}. Leave it out."
        raise BadRequest(said, param=path or None, code="invalid_value")


def _unstorable(text: str) -> str | None:
    if "\0" in text:
        return "the NUL character (\\u0000)"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return None
