"""`/v1/models/{model}/export`: write a model as the Hub lays models out, and push it there."""

import re
import secrets
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy import Connection

from jobs import catalog, exports, lifecycle, records, trainers
from jobs.attempts import NewJob, Tier
from jobs.exports import KIND, ExportInput
from jobs.queue import QueueName
from jobs.records import JobRecord
from jobs.states import FINAL
from web import idempotency, query, synchronous
from web.auth import identity, owner_id
from web.backend import backend
from web.body import optional_json_object
from web.connection import current as current_connection
from web.errors import BadRequest, NotFound
from web.export_request import ExportQuery, ExportRequest
from web.times import cancel_ms

blueprint = Blueprint("exports", __name__)

_ID = re.compile(r"export-[0-9a-f]{24}")


@blueprint.post("/v1/models/<path:model>/export")
def create(model: str) -> Response:
    """Take an export; the trainer's host runs it."""
    query.parse(query.Query)
    asked = ExportRequest.parse(optional_json_object())
    work = ExportInput(**asked.model_dump())
    with backend().database.transaction() as connection:
        owned = "\0" not in model and catalog.is_fine_tuned(connection, owner_id(), model)
        refused = trainers.refusal(connection, exports.HUB) if work.is_pushed else None
    if not owned:  # one's own needs no worker that offers it
        backend().offers.require(model, owner_id())
    if refused is not None:
        param = "push_to_hub" if work.push_to_hub is not None else "space"
        raise BadRequest(refused, param=param, code="hub_token_missing")
    return _answer(idempotency.accept(_new_job(model, work)))


@blueprint.get("/v1/models/<path:model>/export")
def newest(model: str) -> Response:
    """The newest export of a model."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        found = None if "\0" in model else exports.newest(connection, owner_id(), model)
    if found is None:
        said = f"The model '{model[:100]}' was not exported. POST to this URL to export it."
        raise NotFound(said, param="model", code="export_not_found")
    return _answer(found)


@blueprint.get("/v1/models/<path:model>/exports/<export_id>")
def show(model: str, export_id: str) -> Response:
    """One export; with `?wait=SECONDS` as soon as it has ended, or after that time as it is then."""
    asked = query.parse(ExportQuery)
    record = _mine(model, export_id)
    if asked.wait > 0 and record.state not in FINAL:
        with backend().waiting.place() as free:
            if free:  # otherwise the caller gets the state as it is, and asks again
                seconds = min(asked.wait, backend().settings.sync_wait_seconds)
                backend().waiting.wait(record.id, seconds, current_connection())
        record = _mine(model, export_id)
    return _answer(record)


@blueprint.post("/v1/models/<path:model>/exports/<export_id>/cancel")
def cancel(model: str, export_id: str) -> Response:
    """End an export; one that has ended is answered as it is."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        before = lifecycle.request_cancel(connection, _find(connection, model, export_id).id, owner_id())
    synchronous.tell(backend(), export_id, before)
    return _answer(_mine(model, export_id))


def _new_job(model: str, work: ExportInput) -> NewJob:
    return NewJob(
        id=f"export-{secrets.token_hex(12)}",
        owner_id=owner_id(),
        api_key_id=identity().key_id,
        kind=KIND,
        queue=QueueName.EXPORT,
        model=model,
        tier=Tier.STANDARD,
        request={},
        input=work.model_dump(),
    )


def _mine(model: str, export_id: str) -> JobRecord:
    with backend().database.transaction() as connection:
        return _find(connection, model, export_id)


def _find(connection: Connection, model: str, export_id: str) -> JobRecord:
    """The owner's export of that id and that model.

    Raises:
        NotFound: there is none; somebody else's is the same to us.
    """
    record = None
    if _ID.fullmatch(export_id):
        record = records.find(connection, owner_id(), KIND, export_id)
    if record is None or record.model != model:
        raise NotFound(f"Export with id '{export_id[:100]}' not found.", param="id")
    return record


def _answer(record: JobRecord) -> Response:
    return jsonify(_object(record))


def _object(record: JobRecord) -> dict[str, Any]:
    output, error = record.output or {}, record.error
    return {
        "id": record.id,
        "object": KIND,
        "created_at": _unix(record.created_at),
        "finished_at": _unix(record.finished_at),
        "status": record.state,
        "model": record.model,
        "file_id": output.get("file_id"),
        "hub": output.get("hub"),
        "space": output.get("space"),
        "error": None if error is None else {"code": error["code"], "message": error["message"]},
        "cancel_ms": cancel_ms(record),
    }


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
