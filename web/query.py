"""The query string of a URL, held to the same rules as a body."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

from flask import request
from pydantic import BaseModel, ConfigDict

from web import refusals
from web.errors import BadRequest


class Query(BaseModel):
    """No parameters; a URL that takes some says so in a class of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """OpenAI's parameters that we do not have, each with the values that change nothing."""


Q = TypeVar("Q", bound=Query)


def parse(kind: type[Q], beside: re.Pattern[str] | None = None) -> Q:
    """The parameters of this request's URL; names that match `beside` are somebody else's.

    Raises:
        BadRequest: an unknown or unsupported parameter, one given twice, or one that cannot be stored.
        ValidationError: a value of the wrong type or out of range (see `web.refusals`).
    """
    if not request.query_string:
        return cast(Q, _empty(kind))
    values: dict[str, str] = {}
    for name, given in request.args.lists():
        if any("\0" in text for text in (name, *given)):
            said = f"'{name[:100]}' contains the NUL character. Leave it out."
            raise BadRequest(said, param=name[:100], code="invalid_value")
        besides = beside is not None and beside.fullmatch(name) is not None
        if not besides and name not in kind.model_fields:
            for value in given:
                if refusal := refusals.foreign(name, value, kind.model_fields, kind.unsupported):
                    raise BadRequest.of(refusal)
        elif len(given) > 1:
            said = f"'{name}' is given twice. Send it once."
            raise BadRequest(said, param=name, code="duplicate_parameter")
        elif not besides:
            values[name] = given[0]
    return kind.model_validate(values)


@cache
def _empty(kind: type[Query]) -> Query:
    return kind()  # one for all: it cannot be changed
