"""What went wrong, as HTTP: the only place that knows statuses and the OpenAI error object."""

from typing import ClassVar, Self

import structlog
from flask import Flask, Response, current_app, jsonify
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from jobs.errors import DatabaseUnavailable, InvalidPrompt, ModelUnavailable, StorageFailed
from web import refusals
from web.refusals import Refusal

log = structlog.get_logger(__name__)

_LONGEST_RETRY = 60  # seconds; the official clients ignore more


class ApiError(Exception):
    """A request that gets the error object {message, type, param, code} instead of its result."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        """`retry_after` is in seconds; `should_retry` overrules what clients make of the status."""
        super().__init__(message)
        self.param, self.code = param, code
        self.retry_after, self.should_retry = retry_after, should_retry


class BadRequest(ApiError):
    """The request cannot be taken as it is; the message says what to send instead."""

    status, type = 400, "invalid_request_error"

    @classmethod
    def of(cls, refusal: Refusal) -> Self:
        """The error that says so."""
        return cls(refusal.message, param=refusal.param, code=refusal.code)


class Unauthorized(ApiError):
    """No key, or none of ours."""

    status, type = 401, "invalid_request_error"


class Forbidden(ApiError):
    """A key that does not allow this."""

    status, type = 403, "invalid_request_error"


class NotFound(ApiError):
    """There is no such thing, or it belongs to somebody else."""

    status, type = 404, "invalid_request_error"


class Conflict(ApiError):
    """What is asked for does not go with how things are."""

    status, type = 409, "invalid_request_error"


class TooLarge(ApiError):
    """More bytes than are taken."""

    status, type = 413, "invalid_request_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, code="request_too_large")


class UnsupportedEncoding(ApiError):
    """A compressed body."""

    status, type = 415, "invalid_request_error"


class Unprocessable(ApiError):
    """An idempotency key that came with another request before."""

    status, type = 422, "invalid_request_error"


class RateLimited(ApiError):
    """A limit of the API key is reached."""

    status, type = 429, "requests"


class TooManyTokens(RateLimited):
    """The limit of its tokens, which OpenAI tells by the type."""

    type = "tokens"


class Unavailable(ApiError):
    """Not now; nothing is left behind, try again."""

    status = 503


def failed_job(error: dict[str, str] | None) -> ApiError:
    """The answer to a caller that waited for a job which failed, or without an error was cancelled."""
    if error is None:
        return Unavailable("The job was cancelled. Try again.", code="cancelled", retry_after=1)
    code, message = error["code"], error["message"]
    if code == InvalidPrompt.code:
        return BadRequest(message, param="prompt", code=code)
    if code == ModelUnavailable.code:
        return Unavailable(message, param="model", code=code, retry_after=5)
    return ApiError(message, code=code, should_retry=False)  # it was tried again already where that helps


def body(error: ApiError) -> dict[str, str | None]:
    """The error object."""
    return {"message": str(error), "type": error.type, "param": error.param, "code": error.code}


def register(app: Flask) -> None:
    """Answer every error of `app` with the error object."""
    app.register_error_handler(ApiError, _answer)
    app.register_error_handler(ValidationError, lambda error: _answer(BadRequest.of(refusals.first(error))))
    app.register_error_handler(DatabaseUnavailable, _no_database)
    app.register_error_handler(StorageFailed, _no_storage)
    app.register_error_handler(HTTPException, _from_werkzeug)
    app.register_error_handler(Exception, _unexpected)


def _answer(error: ApiError) -> Response:
    response = jsonify(error=body(error))
    response.status_code = error.status
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(round(min(max(error.retry_after, 1), _LONGEST_RETRY)))
    if error.should_retry is not None:
        response.headers["x-should-retry"] = str(error.should_retry).lower()
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _no_database(error: DatabaseUnavailable) -> Response:
    log.warning("database is out of reach", error=str(error))
    message = "The database is out of reach, so nothing was accepted. Try again in a few seconds."
    return _answer(Unavailable(message, code="database_unavailable", retry_after=2))


def _no_storage(error: StorageFailed) -> Response:
    log.warning("the artifact store failed", error=str(error))
    message = f"{error} Nothing was accepted; whoever runs this server can make room."
    return _answer(Unavailable(message, code="storage_failed", should_retry=False))


def _from_werkzeug(error: HTTPException) -> Response:
    response = _answer(BadRequest(_sentence(error), code=_CODES.get(error.code or 500)))
    response.status_code = error.code or 500
    for name, value in error.get_headers():
        if name in ("Allow", "Content-Range", "Retry-After"):
            response.headers[name] = value
    return response


_CODES = {
    404: "unknown_url",
    405: "method_not_supported",
    413: "request_too_large",
    416: "range_not_satisfiable",
}


def _sentence(error: HTTPException) -> str:
    match error.code:
        case 404:
            return "There is nothing at this URL. The API begins at /v1: try GET /v1/models."
        case 405:
            return "This URL does not take this method; the Allow header names those it takes."
        case 413:
            limit = current_app.config["MAX_CONTENT_LENGTH"] / 1e6
            return f"The request body is over the limit of this server. Send at most {limit:g} MB."
        case 416:
            return "The range begins behind the end. The header Content-Range says how many bytes there are."
        case _:
            return error.description or error.name


def _unexpected(error: Exception) -> Response:
    log.exception("request crashed", exc_info=error)
    return _answer(ApiError("The server had an error while processing your request. Its log has the trace."))
