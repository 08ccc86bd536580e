"""A finished job as OpenAI's Completion object."""

from typing import Any

from jobs.inputs import GenerationInput
from jobs.records import JobRecord
from web.catalogue import Models
from web.logprobs import of_completion
from web.prompts import Tokenizers


def completion_object(models: Models, record: JobRecord) -> dict[str, Any]:
    """The Completion of a job that succeeded."""
    output = record.output or {}
    tokenizer = models.offers.tokenizer(record.model, output["model_digest"])
    read, written = output["prompt_tokens"], output["output_tokens"]
    task = GenerationInput.model_validate(record.input)
    return {
        "id": record.id,
        "object": "text_completion",
        "created": int(record.created_at.timestamp()),
        "model": record.model,
        "system_fingerprint": f"fp_{output['model_digest'][:12]}",  # of the weights that wrote the text
        "choices": [
            _choice(models.tokenizers, tokenizer, task, index, sequence)
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
