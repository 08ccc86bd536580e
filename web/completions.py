"""`POST /v1/completions`: continue prompts and wait for the text."""

import secrets
from typing import Any

from flask import Blueprint, Response, jsonify

from jobs.attempts import INTERACTIVE, NewJob
from jobs.catalog import ModelVersion
from jobs.inputs import MAX_SEQUENCES, GenerationInput, Prompt
from jobs.queue import QueueName
from jobs.records import JobRecord
from jobs.states import State
from web import query, sampling, synchronous
from web.auth import owner_id
from web.backend import Backend, backend
from web.body import json_object
from web.errors import BadRequest, Unavailable, failed_job
from web.requests import DEFAULT_COMPLETION_TOKENS, CompletionRequest

blueprint = Blueprint("completions", __name__)

KIND = "completion"


@blueprint.post("/v1/completions")
def create() -> Response:
    """The answer comes when every sequence has ended; nothing of it is kept."""
    query.parse(query.Query)
    asked = CompletionRequest.parse(json_object())
    model = backend().offers.require(asked.model)
    record = synchronous.run(backend(), _new_job(backend(), model, asked))
    if record.error is not None:
        raise failed_job(record.error)
    if record.state is not State.SUCCEEDED or record.output is None:
        raise Unavailable("The completion was cancelled. Try again.", code="cancelled", retry_after=1)
    return jsonify(_object(record))


def _new_job(backend: Backend, model: ModelVersion, asked: CompletionRequest) -> NewJob:
    """The job that a request asks for, whole and checked.

    Raises:
        BadRequest: it does not fit itself or its model.
    """
    prompts = _prompts(model, asked)
    if len(prompts) * asked.n > MAX_SEQUENCES:
        said = f"'n' is {asked.n} for each of {len(prompts)} prompts, {len(prompts) * asked.n} texts in all."
        raise BadRequest(
            f"{said} Send at most {MAX_SEQUENCES // len(prompts)} as 'n', or fewer prompts.",
            param="n",
            code="integer_above_max_value",
        )
    longest = max(backend.tokenizers.count(model, prompt, "prompt") for prompt in prompts)
    chosen = sampling.decide(asked, asked.max_tokens, DEFAULT_COMPLETION_TOKENS, model.context - longest)
    work = GenerationInput(prompts=prompts, n=asked.n, sampling=chosen)
    return NewJob(
        id=f"cmpl-{secrets.token_hex(16)}",
        owner_id=owner_id(),
        kind=KIND,
        queue=QueueName.GENERATE,
        model=model.name,
        behind=INTERACTIVE,
        request={"user": asked.user},
        input=work.model_dump(mode="json"),
        stored=False,
    )


def _prompts(model: ModelVersion, asked: CompletionRequest) -> tuple[Prompt, ...]:
    if asked.prompt is None:
        return ((model.eos_token_id,),)
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in asked.prompt)


def _object(record: JobRecord) -> dict[str, Any]:
    output = record.output or {}
    read, written = output["prompt_tokens"], output["output_tokens"]
    return {
        "id": record.id,
        "object": "text_completion",
        "created": int(record.created_at.timestamp()),
        "model": record.model,
        "system_fingerprint": f"fp_{output['model_digest'][:12]}",  # of the weights that wrote the text
        "choices": [
            {
                "index": index,
                "text": sequence["text"],
                "finish_reason": sequence["finish_reason"],
                "logprobs": None,
            }
            for index, sequence in enumerate(output["sequences"])
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }
