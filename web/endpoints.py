"""The endpoints that generate, for whoever takes their bodies: HTTP itself, or a line of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.attempts import NewJob
from jobs.keys import Identity
from jobs.records import JobRecord
from web import chat_job, completion_job, response_job, response_object
from web.catalogue import Models
from web.chat_object import chat_object
from web.chat_request import ChatRequest
from web.completion_object import completion_object
from web.completion_request import CompletionRequest
from web.response_request import ResponseRequest


@dataclass(frozen=True)
class Endpoint:
    """How a body becomes a job, and a finished job an answer."""

    new_job: Callable[[Models, Identity, Mapping[str, Any]], NewJob]
    """Raises ApiError and ValidationError, as the HTTP endpoint answers them."""
    answer: Callable[[Models, JobRecord], dict[str, Any]]
    """The body of a job that succeeded."""


ENDPOINTS = {
    "/v1/completions": Endpoint(
        lambda models, who, body: completion_job.new_job(models, who, CompletionRequest.parse(body)),
        completion_object,
    ),
    "/v1/chat/completions": Endpoint(
        lambda models, who, body: chat_job.new_job(models, who, ChatRequest.parse(body)),
        chat_object,
    ),
    "/v1/responses": Endpoint(
        lambda models, who, body: response_job.new_job(models, who, ResponseRequest.parse(body)),
        response_object.answer,
    ),
}
