"""A job as OpenAI's Response object: the one place where our states become its statuses."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import InvalidPrompt
from jobs.inputs import Sampling
from jobs.records import JobRecord
from jobs.states import State
from web.catalogue import Models
from web.errors import NotFound
from web.logprobs import of_text
from web.response_request import ResponseRequest
from web.times import standing, times

_FINISHED = {State.SUCCEEDED: "completed", State.FAILED: "failed", State.CANCELLED: "cancelled"}
_OURS = {
    "seed",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "top_k",
    "min_p",
    "typical_p",
    "num_beams",
    "length_penalty",
    "early_stopping",
}
"""Parameters of sampling that a response shows beside OpenAI's."""
_POLL_MS = (250, 5000)  # shortest and longest pause that we advise


def echo(request: ResponseRequest, sampling: Sampling) -> dict[str, Any]:
    """What of a request its object shows, with what was decided for the caller."""
    return {
        "background": request.background,
        "instructions": request.instructions,
        "max_output_tokens": sampling.max_tokens,
        "metadata": request.metadata,
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "safety_identifier": request.safety_identifier,
        "store": request.store,
        "temperature": sampling.temperature,
        "tool_choice": request.tool_choice,
        "top_p": sampling.top_p,
        "truncation": request.truncation,
        "user": request.user,
        "top_logprobs": request.top_logprobs,
        # ours
        "stop": list(sampling.stop),
        "bad_words": request.bad_words,  # as they were sent, not as tokens
        **sampling.model_dump(mode="json", include=_OURS),
    }


def answer(models: Models, record: JobRecord) -> dict[str, Any]:
    """The Response of a job as it is now."""
    output = record.output or {}
    stored = (output.get("sequences") or [{}])[0].get("logprobs")
    if not stored:
        return response_object(record, [])
    try:
        tokenizer = models.offers.tokenizer(record.model, output["model_digest"])
    except NotFound:  # its tokens cannot be told any more, its text can
        return response_object(record, [])
    return response_object(record, of_text(models.tokenizers, tokenizer, stored))


def response_object(record: JobRecord, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The Response of a job; `logprobs` is empty, or has one object for each token of its text."""
    status = _status(record)
    return {
        "id": record.id,
        "object": "response",
        "created_at": int(record.created_at.timestamp()),
        "completed_at": _completed_at(record, status),
        "status": status,
        "error": _error(record),
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": record.model,
        "output": _output(record, status, logprobs),
        "usage": _usage(record.output),
        # what we do not have, as OpenAI says it
        "max_tool_calls": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "text": {"format": {"type": "text"}},
        "tools": [],
        # of one that was made before these could be asked for
        "previous_response_id": None,
        "truncation": "disabled",
        **record.request,
        # ours
        "attempt": record.attempt,
        "queue_position": record.queue_position,
        **standing(record),
        "receipt": (record.output or {}).get("receipt"),
        "verification": (record.output or {}).get("verification"),
        **times(record),
    }


def message(response_id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """The one message in the output of a response."""
    name = response_id.replace("resp_", "msg_")
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What a message of ours says."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def poll_after_ms(record: JobRecord) -> int | None:
    """How long to wait before the next look; None when the job has ended."""
    if record.state in _FINISHED:
        return None
    shortest, longest = _POLL_MS
    return min(longest, shortest + 50 * (record.queue_position or 0))


def _status(record: JobRecord) -> str:
    if record.state is State.QUEUED:
        return "queued"
    if record.state is State.RUNNING:
        return "in_progress"
    if record.state is State.SUCCEEDED and _sequence(record.output).get("finish_reason") == "length":
        return "incomplete"
    return _FINISHED[record.state]


def _completed_at(record: JobRecord, status: str) -> int | None:
    if status != "completed" or record.finished_at is None:
        return None
    return int(record.finished_at.timestamp())


def _error(record: JobRecord) -> dict[str, str] | None:
    if record.error is None:
        return None
    code = record.error["code"]  # OpenAI's list of codes is closed; ours stands beside it
    known = "invalid_prompt" if code == InvalidPrompt.code else "server_error"
    return {"code": known, "message": record.error["message"], "reason": code}


def _output(record: JobRecord, status: str, logprobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    text = _sequence(record.output).get("text", "")
    if record.output is None or (not text and status != "completed"):
        return []
    whole = "completed" if status == "completed" else "incomplete"
    return [message(record.id, whole, [text_part(text, list(logprobs))])]


def _sequence(output: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The one sequence of a response; a cancelled job may have none."""
    sequences = (output or {}).get("sequences") or [{}]
    first: Mapping[str, Any] = sequences[0]
    return first


def _usage(output: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if output is None:
        return None
    read, written = output["prompt_tokens"], output["output_tokens"]
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": output.get("cached_tokens", 0), "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
