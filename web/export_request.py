"""What may stand in a request for an export."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from web.query import Query
from web.requests import Request

_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?=.{{3,96}}\Z){_NAME}/{_NAME}", re.ASCII)


def _is_repository(name: str) -> str:
    if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        said = "'{param}' is no name of a repository of the Hub. Send \"user/name\"."
        raise PydanticCustomError("invalid_value", said)
    return name


Repository = Annotated[
    str, AfterValidator(_is_repository), WithJsonSchema({"type": "string", "pattern": "^[^/]+/[^/]+$"})
]


class ExportRequest(Request):
    """`POST /v1/models/{model}/export`."""

    push_to_hub: Repository | None = None
    space: Repository | None = None
    private: bool = True


class ExportQuery(Query):
    """`GET /v1/models/{model}/exports/{export_id}`."""

    wait: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 0.0
