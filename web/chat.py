"""`POST /v1/chat/completions`: answer a conversation, whole or streamed."""

from flask import Blueprint, Response, jsonify

from web import query, streaming, synchronous
from web.auth import identity
from web.backend import backend
from web.body import json_object
from web.chat_job import new_job
from web.chat_object import chat_object
from web.chat_request import ChatRequest
from web.chunks import ChatChunks

blueprint = Blueprint("chat", __name__)


@blueprint.post("/v1/chat/completions")
def create() -> Response:
    """The answer comes when every choice has ended, or token by token; nothing of it is kept."""
    query.parse(query.Query)
    asked = ChatRequest.parse(json_object())
    models = backend()
    job = new_job(models, identity(), asked)
    if asked.stream:
        return streaming.create(models, job, lambda record: ChatChunks(models, record, asked.include_usage))
    return jsonify(chat_object(models, synchronous.answer(models, job)))
