"""`/v1/responses`: submit, poll or wait, cancel, delete, list."""

import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from flask import Blueprint, Response, jsonify
from pydantic import Field
from sqlalchemy import Connection

from jobs import lifecycle, records
from jobs.attempts import INTERACTIVE, STANDARD, NewJob
from jobs.inputs import GenerationInput
from jobs.queue import QueueName, enqueue
from jobs.records import JobRecord
from jobs.states import FINAL, State
from web import prompts, query, sampling, synchronous
from web.auth import owner_id
from web.backend import Backend, backend
from web.body import json_object
from web.errors import BadRequest, Conflict, NotFound
from web.logprobs import of_text
from web.response_object import echo, poll_after_ms, response_object
from web.response_request import DEFAULT_OUTPUT_TOKENS, ResponseRequest

blueprint = Blueprint("responses", __name__)

KIND = "response"

_ID = re.compile(r"resp_[0-9a-f]{32}")
LOGPROBS = "message.output_text.logprobs"  # shown always where they were asked for
_CANCEL_WAIT = 2.0  # seconds; a worker that lives drops a cancelled job sooner


@blueprint.post("/v1/responses")
def create() -> Response:
    """Take a job; answer at once in the background, else after its end."""
    query.parse(query.Query)
    job = _new_job(backend(), ResponseRequest.parse(json_object()))
    if job.request["background"]:
        return _answer(enqueue(backend().database, backend().signals, job))
    return _answer(synchronous.run(backend(), job))


@blueprint.get("/v1/responses/<response_id>")
def show(response_id: str) -> Response:
    """One response; with `?wait=SECONDS` as soon as it has ended, or after that time as it is then."""
    asked = query.parse(ShowQuery)
    record = _mine(response_id)
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
    return _answer(enqueue(backend().database, backend().signals, _replay(backend(), record)))


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
    data = [_object(record) for record in found]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return jsonify(object="list", data=data, first_id=first, last_id=last, has_more=more)


class ShowQuery(query.Query):
    """`GET /v1/responses/{id}`."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "include": ("", LOGPROBS),
        "include[]": ("", LOGPROBS),
        "include_obfuscation": ("true", "false"),
        "starting_after": (),
        "stream": ("false",),
    }

    wait: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 0.0


class IndexQuery(query.Query):
    """`GET /v1/responses`."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


def _new_job(backend: Backend, asked: ResponseRequest) -> NewJob:
    """The job that a request asks for, whole and checked.

    Raises:
        BadRequest: it does not fit itself or its model.
        NotFound: there is no such model.
    """
    limit_name, limit = _limit(asked)
    if asked.background and not asked.store:
        said = "'store': false goes with a synchronous call only, because polling reads what is stored."
        raise BadRequest(f"{said} Leave one of the two out.", param="store", code="unsupported_value")
    model = backend.offers.require(asked.model)
    prompt = prompts.conversation(backend.tokenizers, model, asked.input, asked.instructions)
    room = model.context - backend.tokenizers.count(model, prompt, "input")
    most = sampling.limit_of(asked, limit, DEFAULT_OUTPUT_TOKENS, room, limit_name)
    if asked.num_beams > 1 and asked.logprobs is not None:
        said = "Log-probabilities do not go with beam search. Leave one of the two out."
        raise BadRequest(
            said, param="top_logprobs" if asked.top_logprobs else "include", code="unsupported_value"
        )
    chosen = sampling.decide(asked, model, backend.tokenizers, most, asked.logprobs)
    work = GenerationInput(prompts=(prompt,), sampling=chosen)
    return NewJob(
        id=f"resp_{secrets.token_hex(16)}",
        owner_id=owner_id(),
        kind=KIND,
        queue=QueueName.GENERATE,
        model=model.name,
        behind=STANDARD if asked.background else INTERACTIVE,
        request=echo(asked, chosen),
        input=work.model_dump(mode="json"),
        stored=asked.store,
    )


def _replay(backend: Backend, record: JobRecord) -> NewJob:
    """The job that says everything again.

    Raises:
        BadRequest: it has not ended with an answer.
        Conflict: the weights that wrote it are not there any more.
        NotFound: the model is not.
    """
    if record.state is not State.SUCCEEDED or record.output is None:
        said = f"A response can be verified once it has its whole answer; this one is {record.state}."
        raise BadRequest(f"{said} Wait for its end, or create it again.", param="id", code="not_verifiable")
    model, wrote = backend.offers.require(record.model), record.output["model_digest"]
    if model.digest != wrote:
        raise Conflict(
            f"The model '{record.model}' has other weights now ({model.digest[:12]}) than those that wrote "
            f"this response ({wrote[:12]}). Offer those again to verify it.",
            param="id",
            code="model_changed",
        )
    tokens = [sequence["tokens"] for sequence in record.output["sequences"]]
    replay = {"of": record.id, "tokens": tokens, "receipt": record.output.get("receipt", {})}
    return NewJob(
        id=f"resp_{secrets.token_hex(16)}",
        owner_id=owner_id(),
        kind=KIND,
        queue=QueueName.GENERATE,
        model=record.model,
        behind=STANDARD,
        request=record.request | {"background": True, "store": True},
        input=record.input | {"replay": replay},
    )


def _limit(asked: ResponseRequest) -> tuple[str, int | None]:
    if asked.max_tokens is None:
        return "max_output_tokens", asked.max_output_tokens
    if asked.max_output_tokens is not None:
        said = "'max_tokens' is another name for 'max_output_tokens'. Send one of them."
        raise BadRequest(said, param="max_tokens", code="duplicate_parameter")
    return "max_tokens", asked.max_tokens


def _mine(response_id: str) -> JobRecord:
    with backend().database.transaction() as connection:
        return _find(connection, response_id)


def _find(connection: Connection, response_id: str, param: str = "id") -> JobRecord:
    """The owner's stored response of that id.

    Raises:
        NotFound: there is none; somebody else's is the same to us.
    """
    record = None
    if _ID.fullmatch(response_id):
        record = records.find(connection, owner_id(), KIND, response_id)
    if record is None or not record.stored:
        raise NotFound(f"Response with id '{response_id[:100]}' not found.", param=param)
    return record


def _wait(job_id: str, seconds: float) -> None:
    """Wait if a place is free; otherwise the caller gets the state as it is, and asks again."""
    with backend().waiting.place() as free:
        if free:
            backend().waiting.wait(job_id, seconds)


def _object(record: JobRecord) -> dict[str, Any]:
    output = record.output or {}
    stored = (output.get("sequences") or [{}])[0].get("logprobs")
    if not stored:
        return response_object(record, [])
    tokenizer = backend().offers.tokenizer(record.model, output["model_digest"])
    return response_object(record, of_text(backend().tokenizers, tokenizer, stored))


def _answer(record: JobRecord) -> Response:
    response = jsonify(_object(record))
    pause = poll_after_ms(record)
    if pause is not None:
        response.headers["openai-poll-after-ms"] = str(pause)
    return response
