"""A finished job as OpenAI's ChatCompletion object."""

from typing import Any

from jobs.records import JobRecord
from web.catalogue import Models
from web.completion_object import fingerprint, head, usage
from web.errors import NotFound
from web.logprobs import of_text


def chat_object(models: Models, record: JobRecord) -> dict[str, Any]:
    """The ChatCompletion of a job that succeeded."""
    output = record.output or {}
    return {
        **head(record, "chat.completion"),
        "system_fingerprint": fingerprint(output),
        "service_tier": "default",
        "choices": [_choice(models, record, *numbered) for numbered in enumerate(output["sequences"])],
        "usage": usage(output),
        "receipt": output.get("receipt"),  # ours
    }


def logprobs_object(told: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """Log-probabilities as a choice has them; a refusal is never told apart from other text."""
    return None if told is None else {"content": told, "refusal": None}


def _choice(models: Models, record: JobRecord, index: int, sequence: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": sequence["text"], "refusal": None, "annotations": []}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs_object(_told(models, record, sequence.get("logprobs"))),
        "finish_reason": sequence["finish_reason"],
    }


def _told(models: Models, record: JobRecord, stored: list[Any] | None) -> list[dict[str, Any]] | None:
    if stored is None or record.output is None:
        return None
    try:
        tokenizer = models.offers.tokenizer(record.model, record.output["model_digest"])
    except NotFound:  # its tokens cannot be told any more, its text can
        return None
    return of_text(models.tokenizers, tokenizer, stored)
