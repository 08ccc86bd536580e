"""What a batch may be created and listed with."""

from typing import Annotated, Literal

from pydantic import Field

from web import query
from web.file_upload import ExpiresAfter
from web.requests import Metadata, Request


class BatchRequest(Request):
    """`POST /v1/batches`."""

    input_file_id: Annotated[str, Field(min_length=1, max_length=256)]
    endpoint: Literal["/v1/completions", "/v1/chat/completions", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: Metadata = Field(default_factory=dict)
    output_expires_after: ExpiresAfter | None = None


class BatchesQuery(query.Query):
    """`GET /v1/batches`."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None
