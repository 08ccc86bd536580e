"""`GET /v1/usage`: what was done with each key on each day."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from flask import Blueprint, Response, jsonify
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from jobs import usage
from jobs.usage import Used
from web import query
from web.auth import identity
from web.backend import backend
from web.errors import BadRequest

blueprint = Blueprint("usage", __name__)


def _day(text: str) -> date:
    if re.fullmatch(r"2\d{3}-\d{2}-\d{2}", text, re.ASCII):
        with suppress(ValueError):
            return date.fromisoformat(text)
    said = "'{param}' is no day of this millennium. Send one in UTC such as 2026-11-20."
    raise PydanticCustomError("invalid_value", said)


Day = Annotated[date, BeforeValidator(_day)]

_USUAL = timedelta(days=29)  # with today, thirty days


@blueprint.get("/v1/usage")
def index() -> Response:
    """The newest days first; of the own owner's keys, for a key with the scope `admin` of everybody's."""
    asked = query.parse(UsageQuery)
    end = asked.end or datetime.now(UTC).date()
    start = asked.start or end - _USUAL
    if start > end:
        said = f"'start' is {start}, after 'end', which is {end}. Send an earlier day."
        raise BadRequest(said, param="start", code="invalid_value")
    everybody = "admin" in identity().scopes
    with backend().database.transaction() as connection:
        found, more = usage.read(
            connection, start, end, asked.limit, None if everybody else identity().owner_id
        )
    data = [_shown(used, everybody) for used in found]
    return jsonify(object="list", start=str(start), end=str(end), data=data, has_more=more)


class UsageQuery(query.Query):
    """`GET /v1/usage`: both days are included and in UTC."""

    start: Day | None = None
    end: Day | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


def _shown(used: Used, with_owner: bool) -> dict[str, Any]:
    owner = {"owner": used.owner} if with_owner else {}
    return {
        "object": "usage",
        "day": str(used.day),
        "key": used.prefix,
        **owner,
        "jobs": used.jobs,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "worker_seconds": round(used.worker_seconds, 3),
    }
