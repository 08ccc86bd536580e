"""`/v1/batches`: create, retrieve, list, cancel."""

import json
import re
import secrets

from flask import Blueprint, Response, jsonify
from sqlalchemy import Connection

from jobs import batches, files
from jobs.artifacts import ArtifactStore
from jobs.attempts import Tier
from jobs.batch_states import ENDED, Status
from jobs.batches import Batch, NewBatch
from jobs.queue import Chore
from web import idempotency, query
from web.auth import identity, owner_id
from web.backend import backend
from web.batch_object import batch_object
from web.batch_request import BatchesQuery, BatchRequest
from web.body import json_object
from web.errors import BadRequest, Conflict, NotFound, RateLimited
from web.offload import offload
from web.paging import page_of

blueprint = Blueprint("batches", __name__)

_ID = re.compile(r"batch_[0-9a-f]{32}")
_FILE_ID = re.compile(r"file-[0-9a-f]{32}")
_POLL_MS = 2000
_LONGEST_LINE = 4_000_000  # bytes, as the validation takes them


@blueprint.post("/v1/batches")
def create() -> Response:
    """Take a batch; the clerk expands it once its file is validated."""
    query.parse(query.Query)
    asked = BatchRequest.parse(json_object())
    refusal = _refusal(asked.input_file_id)

    def find(connection: Connection, batch_id: str) -> Batch | None:
        return batches.find(connection, owner_id(), batch_id)

    def make(connection: Connection) -> tuple[str, Batch]:
        if refusal is not None:
            raise refusal
        _check_file(connection, asked.input_file_id)
        new = _new(asked)
        batches.create(connection, new)
        return new.id, batches.read(connection, new.id)

    batch, again = idempotency.once(find, make)
    if not again:
        backend().signals.ring(Chore.BATCHES)
    return _answer(batch)


@blueprint.get("/v1/batches")
def index() -> Response:
    """The owner's batches, page by page, the newest first."""
    asked = query.parse(BatchesQuery)
    with backend().database.transaction() as connection:
        if asked.after is not None:
            _find(connection, asked.after, param="after")
        found, more = batches.page(connection, owner_id(), asked.after, asked.limit)
    return page_of([batch_object(batch) for batch in found], more)


@blueprint.get("/v1/batches/<batch_id>")
def show(batch_id: str) -> Response:
    """One batch, with its lines counted as they are now."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        return _answer(_find(connection, batch_id))


@blueprint.post("/v1/batches/<batch_id>/cancel")
def cancel(batch_id: str) -> Response:
    """Stop a batch and keep what has ended; one that was cancelled already is answered as it is."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        moved = _ID.fullmatch(batch_id) and batches.request_cancel(connection, owner_id(), batch_id)
        batch = _find(connection, batch_id)
    if moved:
        backend().signals.ring(Chore.BATCHES)
    elif batch.status not in (Status.CANCELLING, Status.CANCELLED):
        said = f"The batch is {batch.status} already, so there is nothing left to cancel."
        raise Conflict(f"{said} Retrieve it for its files.", code="not_cancellable", should_retry=False)
    return _answer(batch)


def _refusal(file_id: str) -> RateLimited | None:
    """Why a batch of this file may not come now: what waits before it takes longer than it has.

    Its model is that of its first line; what cannot be read is told when the file is validated.
    """
    common = backend()
    if not common.admission.limits or not _FILE_ID.fullmatch(file_id):
        return None
    with common.database.reading() as connection:
        file = files.find(connection, owner_id(), file_id)
    model = None if file is None else offload(_model_of, common.artifacts, file.artifact)
    return None if model is None else common.admission.refusal_of(model, Tier.BATCH, owner_id())


def _model_of(store: ArtifactStore, artifact: str) -> str | None:
    try:
        with store.open(artifact) as file:
            first = json.loads(file.readline(_LONGEST_LINE))
        model = first["body"]["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return model if isinstance(model, str) and "\0" not in model else None


def _check_file(connection: Connection, file_id: str) -> None:
    """See that the owner has the file, and keep it.

    Raises:
        NotFound: there is none; somebody else's is the same to us.
        BadRequest: it is for something else.
    """
    file = files.find(connection, owner_id(), file_id, hold=True) if _FILE_ID.fullmatch(file_id) else None
    if file is None:
        raise NotFound(f"No such File object: '{file_id[:100]}'.", param="input_file_id")
    if file.purpose != "batch":
        said = f"The file '{file_id}' was uploaded for '{file.purpose}'. Upload it with the purpose 'batch'."
        raise BadRequest(said, param="input_file_id", code="invalid_file_purpose")


def _new(asked: BatchRequest) -> NewBatch:
    expires = asked.output_expires_after
    return NewBatch(
        id=f"batch_{secrets.token_hex(16)}",
        owner_id=owner_id(),
        api_key_id=identity().key_id,
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        completion_window=asked.completion_window,
        metadata=asked.metadata,
        output_expires_after=None if expires is None else expires.seconds,
    )


def _find(connection: Connection, batch_id: str, param: str = "id") -> Batch:
    """The owner's batch of that id.

    Raises:
        NotFound: there is none; somebody else's is the same to us.
    """
    batch = batches.find(connection, owner_id(), batch_id) if _ID.fullmatch(batch_id) else None
    if batch is None:
        raise NotFound(f"No batch found with id '{batch_id[:100]}'.", param=param)
    return batch


def _answer(batch: Batch) -> Response:
    response = jsonify(batch_object(batch))
    if batch.status not in ENDED:
        response.headers["openai-poll-after-ms"] = str(_POLL_MS)
    return response
