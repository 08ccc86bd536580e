"""What is no request: gunicorn finds it before Flask is asked, and here it gets the error object too."""

import json
import secrets
from socket import socket
from typing import NamedTuple

import structlog
from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.http.errors import (  # type: ignore[import-untyped]
    ConfigurationProblem,
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)

log = structlog.get_logger(__name__)

NOT_HTTP: type[Exception] = ParseException
"""What gunicorn raises over bytes that are no HTTP; the chunks of a body it reads when the body is read."""
MAX_REQUEST_LINE = 8190
"""Bytes of method, URL and version together; gunicorn takes no more."""
MAX_HEADER = 16 * 1024
"""Bytes of one header, as in nginx."""


class Answer(NamedTuple):
    """What a client hears."""

    status: str
    code: str | None
    message: str
    type: str = "invalid_request_error"

    def bytes(self, request_id: str) -> bytes:
        """The answer on the wire; nothing follows it on its connection."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        body = json.dumps({"error": error})
        lines = (
            f"HTTP/1.1 {self.status}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body) + 1}",
            "X-Content-Type-Options: nosniff",
            "Cache-Control: no-store",
            f"x-request-id: {request_id}",
        )
        return "\r\n".join([*lines, "", f"{body}\n"]).encode("ascii")


ANSWERS = {
    LimitRequestLine: Answer(
        "414 URI Too Long",
        "url_too_long",
        "The URL of this request is too long. Send at most 8,000 characters.",
    ),
    LimitRequestHeaders: Answer(
        "431 Request Header Fields Too Large",
        "headers_too_large",
        "The headers of this request are too long. Send fewer, each of at most 16 kB.",
    ),
    ExpectationFailed: Answer(
        "417 Expectation Failed",
        "unsupported_expectation",
        "The header 'Expect' is only supported as '100-continue'. Send that or leave it out.",
    ),
    UnsupportedTransferCoding: Answer(
        "501 Not Implemented",
        "unsupported_transfer_encoding",
        "The header 'Transfer-Encoding' is only supported as 'chunked'. Send that or leave it out.",
    ),
}
_MALFORMED = Answer("400 Bad Request", "malformed_request", "This is not a well-formed HTTP request.")
_CRASH = Answer(
    "500 Internal Server Error",
    None,
    "The server had an error while processing your request. Its log has the trace.",
    "server_error",
)
_OURS = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)  # no client can mend them


def answer(client: socket, found: Exception) -> None:
    """Answer in place of the application; what the client sent is repeated nowhere."""
    request_id = f"req_{secrets.token_hex(16)}"
    said = log.bind(request_id=request_id)
    if isinstance(found, NOT_HTTP) and not isinstance(found, _OURS):
        chosen = ANSWERS.get(type(found), _MALFORMED)
        said.warning("this was no request", status=int(chosen.status[:3]), found=type(found).__name__)
    else:
        chosen = _CRASH
        said.error("request crashed outside the application", exc_info=found)
    try:
        util.write_nonblock(client, chosen.bytes(request_id))
    except OSError as error:
        said.info("the client did not wait for the answer", error=str(error))
