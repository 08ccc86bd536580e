"""One page of a list, as every list of the API shows it."""

from collections.abc import Sequence
from typing import Any

from flask import Response, jsonify


def page_of(data: Sequence[dict[str, Any]], more: bool) -> Response:
    """The page with these objects; the next one is asked for with `after` and the last one's id."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return jsonify(object="list", data=data, first_id=first, last_id=last, has_more=more)
