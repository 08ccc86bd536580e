"""A finished job as OpenAI's Completion object."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jobs.inputs import GenerationInput
from jobs.records import JobRecord
from web.catalogue import Models
from web.logprobs import of_completion
from web.prompts import Tokenizers


def completion_object(models: Models, record: JobRecord) -> dict[str, Any]:
    """The Completion of a job that succeeded."""
    output = record.output or {}
    tokenizer = partial(models.offers.tokenizer, record.model, output["model_digest"])
    task = GenerationInput.model_validate(record.input)
    return {
        **head(record, "text_completion"),
        "system_fingerprint": fingerprint(output),
        "choices": [
            _choice(models.tokenizers, tokenizer, task, index, sequence)
            for index, sequence in enumerate(output["sequences"])
        ],
        "usage": usage(output),
        "receipt": output.get("receipt"),  # ours
    }


def head(record: JobRecord, kind: str) -> dict[str, Any]:
    """What a whole answer and each chunk of a stream begin with; `kind` is the object's name."""
    return {
        "id": record.id,
        "object": kind,
        "created": int(record.created_at.timestamp()),
        "model": record.model,
    }


def fingerprint(output: Mapping[str, Any]) -> str:
    """Of the weights that wrote the text."""
    return f"fp_{output['model_digest'][:12]}"


def usage(output: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens of all choices together; a prompt counts once."""
    read, written = output["prompt_tokens"], output["output_tokens"]
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": output.get("cached_tokens", 0), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def continued(tokenizers: Tokenizers, tokenizer: str, task: GenerationInput, index: int) -> str:
    """The text of the prompt that a choice continues."""
    prompt = task.prompts[index // task.n]
    return prompt if isinstance(prompt, str) else tokenizers.text(tokenizer, prompt)


def _choice(
    tokenizers: Tokenizers,
    tokenizer: Callable[[], str],
    task: GenerationInput,
    index: int,
    sequence: dict[str, Any],
) -> dict[str, Any]:
    text, tokens, logprobs = sequence["text"], sequence["tokens"], sequence.get("logprobs")
    if task.echo:
        text = continued(tokenizers, tokenizer(), task, index) + text
        if logprobs is not None:
            tokens = [*sequence["prompt_tokens"], *tokens]
            logprobs = [*sequence["prompt_logprobs"], *logprobs]
    return {
        "index": index,
        "text": text,
        "finish_reason": sequence["finish_reason"],
        "logprobs": None if logprobs is None else of_completion(tokenizers, tokenizer(), logprobs, tokens),
    }
