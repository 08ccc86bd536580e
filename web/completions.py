"""`POST /v1/completions`: continue prompts, whole or streamed."""

from flask import Blueprint, Response, jsonify

from web import query, streaming, synchronous
from web.auth import identity
from web.backend import backend
from web.body import json_object
from web.chunks import CompletionChunks
from web.completion_job import new_job
from web.completion_object import completion_object
from web.completion_request import CompletionRequest

blueprint = Blueprint("completions", __name__)


@blueprint.post("/v1/completions")
def create() -> Response:
    """The answer comes when every choice has ended, or token by token; nothing of it is kept."""
    query.parse(query.Query)
    asked = CompletionRequest.parse(json_object())
    models = backend()
    job = new_job(models, identity(), asked)
    if asked.stream:
        return streaming.create(
            models, job, lambda record: CompletionChunks(models, record, asked.include_usage)
        )
    return jsonify(completion_object(models, synchronous.answer(models, job)))
