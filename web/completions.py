"""`POST /v1/completions`: continue prompts and wait for the text."""

from flask import Blueprint, Response, jsonify

from web import query, synchronous
from web.auth import identity
from web.backend import backend
from web.body import json_object
from web.completion_job import new_job
from web.completion_object import completion_object
from web.completion_request import CompletionRequest

blueprint = Blueprint("completions", __name__)


@blueprint.post("/v1/completions")
def create() -> Response:
    """The answer comes when every sequence has ended; nothing of it is kept."""
    query.parse(query.Query)
    job = new_job(backend(), identity(), CompletionRequest.parse(json_object()))
    return jsonify(completion_object(backend(), synchronous.answer(backend(), job)))
