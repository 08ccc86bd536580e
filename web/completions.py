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
from web.completion_request import DEFAULT_COMPLETION_TOKENS, CompletionRequest
from web.errors import BadRequest, Unavailable, failed_job
from web.logprobs import of_completion
from web.prompts import Tokenizers

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
    return jsonify(_object(backend().tokenizers, model.tokenizer, record))


def _new_job(backend: Backend, model: ModelVersion, asked: CompletionRequest) -> NewJob:
    """The job that a request asks for, whole and checked.

    Raises:
        BadRequest: it does not fit itself or its model.
    """
    prompts = _prompts(model, asked)
    _check_count(asked, len(prompts))
    longest = max(backend.tokenizers.count(model, prompt, "prompt") for prompt in prompts)
    limit = sampling.limit_of(asked, asked.max_tokens, DEFAULT_COMPLETION_TOKENS, model.context - longest)
    chosen = sampling.decide(asked, model, backend.tokenizers, limit, asked.logprobs)
    work = GenerationInput(
        prompts=prompts, n=asked.n, best_of=asked.best_of, echo=asked.echo, sampling=chosen
    )
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


def _check_count(asked: CompletionRequest, prompts: int) -> None:
    """How many texts are written for each prompt: `n`, or as many as `best_of`.

    Raises:
        BadRequest: they contradict each other, or are too many.
    """
    if asked.best_of is not None and asked.best_of < asked.n:
        said = f"'best_of' is {asked.best_of}, but 'n' of them are returned, which is {asked.n}."
        raise BadRequest(f"{said} Send at least {asked.n}.", param="best_of", code="integer_below_min_value")
    if asked.num_beams > 1:
        _check_beams(asked)
    name, each = ("n", asked.n) if asked.best_of is None else ("best_of", asked.best_of)
    if prompts * each > MAX_SEQUENCES:
        said = f"'{name}' is {each} for each of {prompts} prompts, {prompts * each} texts in all."
        raise BadRequest(
            f"{said} Send at most {MAX_SEQUENCES // prompts} as '{name}', or fewer prompts.",
            param=name,
            code="integer_above_max_value",
        )


def _check_beams(asked: CompletionRequest) -> None:
    if asked.n > asked.num_beams:
        said = f"'n' is {asked.n}, but a beam search with 'num_beams' {asked.num_beams} finds no more texts."
        raise BadRequest(f"{said} Send at most {asked.num_beams}.", param="n", code="integer_above_max_value")
    for name in ("best_of", "logprobs"):
        if getattr(asked, name) is not None:
            said = f"'{name}' does not go with beam search. Leave one of the two out."
            raise BadRequest(said, param=name, code="unsupported_value")


def _prompts(model: ModelVersion, asked: CompletionRequest) -> tuple[Prompt, ...]:
    if asked.prompt is None:
        return ((model.eos_token_id,),)
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in asked.prompt)


def _object(tokenizers: Tokenizers, tokenizer: str, record: JobRecord) -> dict[str, Any]:
    output = record.output or {}
    read, written = output["prompt_tokens"], output["output_tokens"]
    task = GenerationInput.model_validate(record.input)
    return {
        "id": record.id,
        "object": "text_completion",
        "created": int(record.created_at.timestamp()),
        "model": record.model,
        "system_fingerprint": f"fp_{output['model_digest'][:12]}",  # of the weights that wrote the text
        "choices": [
            _choice(tokenizers, tokenizer, task, index, sequence)
            for index, sequence in enumerate(output["sequences"])
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        "receipt": output.get("receipt"),  # ours
    }


def _choice(
    tokenizers: Tokenizers, tokenizer: str, task: GenerationInput, index: int, sequence: dict[str, Any]
) -> dict[str, Any]:
    text, tokens, logprobs = sequence["text"], sequence["tokens"], sequence.get("logprobs")
    if task.echo:
        prompt = task.prompts[index // task.n]
        text = (prompt if isinstance(prompt, str) else tokenizers.text(tokenizer, prompt)) + text
        if logprobs is not None:
            tokens = [*sequence["prompt_tokens"], *tokens]
            logprobs = [*sequence["prompt_logprobs"], *logprobs]
    return {
        "index": index,
        "text": text,
        "finish_reason": sequence["finish_reason"],
        "logprobs": None if logprobs is None else of_completion(tokenizers, tokenizer, logprobs, tokens),
    }
