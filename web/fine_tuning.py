"""`/v1/fine_tuning/jobs`: submit, watch, pause, resume, cancel."""

import re
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection

from jobs import finetunes, lifecycle, records
from jobs.queue import Chore, QueueName
from jobs.records import JobRecord
from jobs.states import FINAL
from web import idempotency, query, synchronous
from web.auth import identity, owner_id
from web.backend import backend
from web.body import json_object
from web.dry_run import Host, rehearse
from web.errors import BadRequest, NotFound
from web.fine_tuning_job import (
    Wanted,
    given_files,
    new_job,
    refuse_impossible,
    wait_for_files,
    wanted,
)
from web.fine_tuning_object import checkpoint_object, event_object, job_object
from web.fine_tuning_request import CheckpointsQuery, EventsQuery, FineTuningRequest, JobsQuery
from web.paging import page_of
from web.webhook_requests import check_url

blueprint = Blueprint("fine_tuning", __name__)

_JOB = re.compile(r"ftjob-[0-9a-f]{24}")
_EVENT = re.compile(r"ftevent-([0-9]{1,18})")
_METADATA = re.compile(r"metadata\[(.{1,64})\]")


@blueprint.post("/v1/fine_tuning/jobs")
def create() -> Response:
    """Take a fine-tune, which waits until its files are read; or, as a dry run, say what it would be."""
    query.parse(query.Query)
    asked = FineTuningRequest.parse(json_object())
    if asked.webhook is not None:
        check_url(asked.webhook, backend().settings.webhook_allow_private, "webhook")
    wish = wanted(backend(), identity(), asked)
    if asked.dry_run:
        return jsonify(_rehearsal(asked, wish))
    job = new_job(identity(), asked, wish.work)

    def keep(connection: Connection) -> None:
        refuse_impossible(connection, asked, wish)
        wait_for_files(connection, job)

    record = idempotency.accept(job, also=keep)
    backend().signals.ring(Chore.FINETUNES)
    return _answer(_mine(record.id))


def _rehearsal(asked: FineTuningRequest, wish: Wanted) -> dict[str, Any]:
    with backend().database.transaction() as connection:
        refuse_impossible(connection, asked, wish)
        given = given_files(connection, owner_id(), wish.work)
        host = Host.read(connection)
    return rehearse(backend(), wish, given, host, asked.model)


@blueprint.get("/v1/fine_tuning/jobs")
def index() -> Response:
    """The owner's fine-tunes, the newest first; with `metadata[name]=value` those that have that."""
    asked = query.parse(JobsQuery, beside=_METADATA)
    metadata = {
        found[1]: value for name, value in request.args.items() if (found := _METADATA.fullmatch(name))
    }
    with backend().database.transaction() as connection:
        if asked.after is not None:
            _find(connection, asked.after, "after")
        found_jobs, more = finetunes.page(connection, owner_id(), asked.after, asked.limit, metadata)
    return jsonify(object="list", data=[job_object(job, owner_id()) for job in found_jobs], has_more=more)


@blueprint.get("/v1/fine_tuning/jobs/<job_id>")
def show(job_id: str) -> Response:
    """One fine-tune."""
    query.parse(query.Query)
    return _answer(_mine(job_id))


@blueprint.post("/v1/fine_tuning/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """End a fine-tune; one that has ended is answered as it is."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        before = lifecycle.request_cancel(connection, _find(connection, job_id).id, owner_id())
    synchronous.tell(backend(), job_id, before)
    return _answer(_mine(job_id))


@blueprint.post("/v1/fine_tuning/jobs/<job_id>/pause")
def pause(job_id: str) -> Response:
    """Let a fine-tune rest: it is shown as queued, with `paused_at`."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        record = _find(connection, job_id)
        _refuse_ended(record, "paused")
        finetunes.pause(connection, owner_id(), record.id)
        record = _find(connection, job_id)
    return _answer(record)


@blueprint.post("/v1/fine_tuning/jobs/<job_id>/resume")
def resume(job_id: str) -> Response:
    """Let a fine-tune that rests go on; one that does not rest is answered as it is."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        record = _find(connection, job_id)
        _refuse_ended(record, "resumed")
        finetunes.resume(connection, owner_id(), record.id)
        record = _find(connection, job_id)
    backend().signals.ring(QueueName.TRAIN)
    return _answer(record)


@blueprint.get("/v1/fine_tuning/jobs/<job_id>/events")
def events(job_id: str) -> Response:
    """What happened, the newest first."""
    asked = query.parse(EventsQuery)
    after = None
    if asked.after is not None:
        found = _EVENT.fullmatch(asked.after)
        if found is None:
            raise BadRequest("'after' is no id of an event: ftevent-...", param="after", code="invalid_value")
        after = int(found[1])
    with backend().database.transaction() as connection:
        record = _find(connection, job_id)
        page, more = finetunes.events(connection, record.id, after, asked.limit)
    return jsonify(object="list", data=[event_object(one, record.error) for one in page], has_more=more)


@blueprint.get("/v1/fine_tuning/jobs/<job_id>/checkpoints")
def checkpoints(job_id: str) -> Response:
    """The states that can be called as models, the newest first."""
    asked = query.parse(CheckpointsQuery)
    with backend().database.transaction() as connection:
        record = _find(connection, job_id)
        if asked.after is not None and not finetunes.has_checkpoint(connection, record.id, asked.after):
            raise NotFound(f"Checkpoint with id '{asked.after[:100]}' not found.", param="after")
        page, more = finetunes.checkpoint_page(connection, record.id, asked.after, asked.limit)
    return page_of([checkpoint_object(one, record.id) for one in page], more)


def _refuse_ended(record: JobRecord, done: str) -> None:
    if record.state in FINAL:
        said = f"The fine-tuning job has ended ({record.state}), so it cannot be {done}."
        raise BadRequest(f"{said} Create another one.", param="id", code="job_ended")


def _mine(job_id: str) -> JobRecord:
    with backend().database.transaction() as connection:
        return _find(connection, job_id)


def _find(connection: Connection, job_id: str, param: str = "id") -> JobRecord:
    """The owner's fine-tune of that id.

    Raises:
        NotFound: there is none; somebody else's is the same to us.
    """
    record = None
    if _JOB.fullmatch(job_id):
        record = records.find(connection, owner_id(), finetunes.KIND, job_id)
    if record is None:
        raise NotFound(f"Fine-tuning job with id '{job_id[:100]}' not found.", param=param)
    return record


def _answer(record: JobRecord) -> Response:
    return jsonify(job_object(record, owner_id()))
