"""The query string of a URL, held to the same rules as a body."""

from typing import TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict

from web import refusals
from web.errors import BadRequest


class Query(BaseModel):
    """No parameters; a URL that takes some says so in a class of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Q = TypeVar("Q", bound=Query)


def parse(kind: type[Q]) -> Q:
    """The parameters of this request's URL.

    Raises:
        BadRequest: an unknown parameter, or one given twice.
        ValidationError: a value of the wrong type or out of range (see `web.refusals`).
    """
    values: dict[str, str] = {}
    for name, given in request.args.lists():
        if name not in kind.model_fields:
            refusal = refusals.unknown(name, kind.model_fields)
            raise BadRequest(refusal.message, param=refusal.param, code=refusal.code)
        if len(given) > 1:
            raise BadRequest(
                f"'{name}' is given twice. Send it once.", param=name, code="duplicate_parameter"
            )
        values[name] = given[0]
    return kind.model_validate(values)
