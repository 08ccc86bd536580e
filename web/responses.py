"""`/v1/responses`: submit, poll, wait or stream, cancel, delete, list."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from flask import Blueprint, Response, jsonify
from pydantic import Field
from sqlalchemy import Connection

from jobs import lifecycle, records
from jobs.encoding import encode
from jobs.records import JobRecord
from jobs.states import FINAL, State
from web import idempotency, query, response_object, streaming, synchronous
from web.auth import identity, owner_id
from web.backend import backend
from web.body import json_object
from web.connection import current as current_connection
from web.conversation import KIND
from web.errors import BadRequest, NotFound
from web.paging import page_of
from web.requests import MAX_INT
from web.response_events import Events
from web.response_job import new_job, replay
from web.response_object import poll_after_ms
from web.response_request import ResponseRequest
from web.shown import Text
from web.webhook_requests import check_url
from web.wire import Answer

blueprint = Blueprint("responses", __name__)

_ID = re.compile(r"resp_[0-9a-f]{32}")
LOGPROBS = "message.output_text.logprobs"  # shown always where they were asked for
_CANCEL_WAIT = 2.0  # seconds; a worker that lives drops a cancelled job sooner


@blueprint.post("/v1/responses")
def create() -> Response:
    """Take a job; answer with its events, at once in the background, else after its end."""
    query.parse(query.Query)
    asked = ResponseRequest.parse(json_object())
    if asked.webhook is not None:
        check_url(asked.webhook, backend().settings.webhook_allow_private, "webhook")
    common = backend()
    job = new_job(common, identity(), asked)
    if asked.stream:
        return streaming.create(common, job, partial(Events, common), background=asked.background)
    if asked.background:
        return _answer(idempotency.accept(job))
    return _answer(synchronous.run(common, job))


@blueprint.get("/v1/responses/<response_id>")
def show(response_id: str) -> Response:
    """One response; with `?wait=SECONDS` as soon as it has ended, or after that time as it is then.

    With `?stream=true` its events, from the one after `starting_after` on.
    """
    asked = query.parse(ShowQuery)
    asked.check()
    if not asked.stream and (shown := _shown(response_id)) is not None:
        return shown
    record = _mine(response_id)
    if asked.stream:
        after = -1 if asked.starting_after is None else asked.starting_after
        return streaming.resume(backend(), record, partial(Events, backend(), after=after))
    if asked.wait > 0 and record.state not in FINAL:
        _wait(record.id, min(asked.wait, backend().settings.sync_wait_seconds))
        record = _mine(response_id)
    return _answer(record)


@blueprint.post("/v1/responses/<response_id>/cancel")
def cancel(response_id: str) -> Response:
    """Cancel a background response; one that has ended is answered as it is."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        record = _find(connection, response_id)
        if not record.request["background"]:
            raise BadRequest(
                "Cannot cancel a synchronous response. Create it with 'background': true, or DELETE it.",
                param="id",
                code="not_cancellable",
            )
        before = lifecycle.request_cancel(connection, record.id, owner_id())
    synchronous.tell(backend(), record.id, before)
    if before is State.RUNNING:
        _wait(record.id, _CANCEL_WAIT)
    return _answer(_mine(record.id))


@blueprint.post("/v1/responses/<response_id>/verify")
def verify(response_id: str) -> Response:
    """Run a response once more, as a job whose `verification` says whether the tokens are the same."""
    query.parse(query.Query)
    record = _mine(response_id)
    return _answer(idempotency.accept(replay(backend(), identity(), record)))


@blueprint.delete("/v1/responses/<response_id>")
def delete(response_id: str) -> Response:
    """Remove a response from its owner's sight at once; one that has not ended is cancelled first."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        record = _find(connection, response_id)
        before = lifecycle.request_cancel(connection, record.id, owner_id())
        if before in FINAL:
            records.forget(connection, owner_id(), KIND, record.id)
        else:  # somebody may still wait for it, or work on it; the sweeper removes the row
            records.hide(connection, owner_id(), KIND, record.id)
    backend().signals.erase([record.id])
    synchronous.tell(backend(), record.id, before)
    return jsonify(id=record.id, object="response.deleted", deleted=True)


@blueprint.get("/v1/responses")
def index() -> Response:
    """The owner's responses, page by page, the newest first."""
    asked = query.parse(IndexQuery)
    with backend().database.transaction() as connection:
        if asked.after is not None:
            _find(connection, asked.after, param="after")
        found, more = records.page(
            connection, owner_id(), KIND, asked.after, asked.limit, asked.order == "desc"
        )
    return page_of([response_object.answer(backend(), record) for record in found], more)


@blueprint.get("/v1/responses/<response_id>/input_items")
def input_items(response_id: str) -> Response:
    """What a response has read, page by page, the newest first."""
    asked = query.parse(ItemsQuery)
    with backend().database.reading() as connection:
        record = _find(connection, response_id)
        items = records.conversation(connection, owner_id(), record.id) or []
    if asked.order == "desc":
        items.reverse()
    places = {item["id"]: place for place, item in enumerate(items, start=1)}
    if asked.after is not None and asked.after not in places:
        raise NotFound(f"Item with id '{asked.after[:100]}' not found.", param="after")
    first = places.get(asked.after, 0) if asked.after is not None else 0
    return page_of(items[first : first + asked.limit], more=first + asked.limit < len(items))


_INCLUDE = {"include": ("", LOGPROBS), "include[]": ("", LOGPROBS)}


class ShowQuery(query.Query):
    """`GET /v1/responses/{id}`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {**_INCLUDE, "include_obfuscation": ("false",)}

    wait: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 0.0
    stream: bool = False
    starting_after: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None

    def check(self) -> None:
        """Raises BadRequest where one parameter contradicts another."""
        if self.starting_after is not None and not self.stream:
            said = "'starting_after' goes with a stream only. Send 'stream=true' too, or leave it out."
            raise BadRequest(said, param="starting_after", code="unsupported_value")
        if self.wait > 0 and self.stream:
            said = "'wait' does not go with a stream, which waits by itself. Leave one of the two out."
            raise BadRequest(said, param="wait", code="unsupported_value")


class ItemsQuery(query.Query):
    """`GET /v1/responses/{id}/input_items`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _INCLUDE

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


class IndexQuery(query.Query):
    """`GET /v1/responses`."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


def _shown(response_id: str) -> Response | None:
    """A finished response as it was shown before; None where it was not, or has changed or gone since."""
    common = backend()
    text = common.shown.find(response_id)
    if text is None or common.together.version.ask((owner_id(), KIND, response_id)) != text.version:
        return None
    return Answer.of(text.body)


def _mine(response_id: str) -> JobRecord:
    record = None
    if _ID.fullmatch(response_id):
        record = backend().together.find.ask((owner_id(), KIND, response_id))
    return _visible(record, response_id)


def _find(connection: Connection, response_id: str, param: str = "id") -> JobRecord:
    """The owner's stored response of that id.

    Raises:
        NotFound: there is none; somebody else's is the same to us.
    """
    record = None
    if _ID.fullmatch(response_id):
        record = records.find(connection, owner_id(), KIND, response_id)
    return _visible(record, response_id, param)


def _visible(record: JobRecord | None, response_id: str, param: str = "id") -> JobRecord:
    if record is None or not record.stored:
        raise NotFound(f"Response with id '{response_id[:100]}' not found.", param=param)
    return record


def _wait(job_id: str, seconds: float) -> None:
    """Wait if a place is free; otherwise the caller gets the state as it is, and asks again."""
    with backend().waiting.place() as free:
        if free:
            backend().waiting.wait(job_id, seconds, current_connection())


def _answer(record: JobRecord) -> Response:
    body = encode(response_object.answer(backend(), record))
    response = Answer.of(body)
    pause = poll_after_ms(record)
    if pause is not None:
        response.headers["openai-poll-after-ms"] = str(pause)
    elif record.version is not None:
        backend().shown.keep(record.id, Text(record.version, body))
    return response
