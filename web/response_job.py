"""The job that a request for a response asks for, whole and checked."""

import secrets

from jobs import records
from jobs.attempts import NewJob, Tier
from jobs.inputs import GenerationInput
from jobs.keys import Identity
from jobs.queue import QueueName
from jobs.records import JobRecord
from jobs.states import State
from web import conversation, sampling
from web.catalogue import Models
from web.conversation import KIND
from web.errors import BadRequest, Conflict
from web.response_object import echo
from web.response_request import DEFAULT_OUTPUT_TOKENS, ResponseRequest
from web.webhook_requests import own_webhook

_EVENTS = [f"response.{end}" for end in ("completed", "failed", "cancelled", "incomplete")]


def new_job(models: Models, who: Identity, asked: ResponseRequest) -> NewJob:
    """The job that a request asks for, whole and checked.

    Raises:
        BadRequest: it does not fit itself or its model.
        NotFound: there is no such model.
    """
    limit_name, limit = _limit(asked)
    if asked.background and not asked.store:
        said = "'store': false goes with a synchronous call only, because polling reads what is stored."
        raise BadRequest(f"{said} Leave one of the two out.", param="store", code="unsupported_value")
    _check_stream(asked)
    webhook = own_webhook(asked.webhook, asked.webhook_events_filter, _EVENTS)
    model = models.offers.require(asked.model, who.owner_id)
    read = conversation.read(models, who.owner_id, model, asked)
    most = sampling.limit_of(asked, limit, DEFAULT_OUTPUT_TOKENS, model.context - read.tokens, limit_name)
    if asked.num_beams > 1 and asked.logprobs is not None:
        said = "Log-probabilities do not go with beam search. Leave one of the two out."
        raise BadRequest(
            said, param="top_logprobs" if asked.top_logprobs else "include", code="unsupported_value"
        )
    chosen = sampling.decide(asked, model, models.tokenizers, most, asked.logprobs)
    work = GenerationInput(prompts=(read.prompt,), stream=asked.stream, sampling=chosen)
    return NewJob(
        id=f"resp_{secrets.token_hex(16)}",
        owner_id=who.owner_id,
        api_key_id=who.key_id,
        kind=KIND,
        queue=QueueName.GENERATE,
        model=model.name,
        tier=Tier.STANDARD if asked.background else Tier.INTERACTIVE,
        tokens=work.cost(read.tokens),
        **asked.urgency,
        request=echo(asked, chosen),
        input=work.model_dump(mode="json"),
        width=work.width,
        stored=asked.store,
        conversation=read.items,
        webhook=webhook,
    )


def replay(models: Models, who: Identity, record: JobRecord) -> NewJob:
    """The job that says everything again.

    Raises:
        BadRequest: it has not ended with an answer.
        Conflict: the weights that wrote it are not there any more.
        NotFound: the model is not.
    """
    if record.state is not State.SUCCEEDED or record.output is None:
        said = f"A response can be verified once it has its whole answer; this one is {record.state}."
        raise BadRequest(f"{said} Wait for its end, or create it again.", param="id", code="not_verifiable")
    model, wrote = models.offers.require(record.model, who.owner_id), record.output["model_digest"]
    if model.digest != wrote:
        raise Conflict(
            f"The model '{record.model}' has other weights now ({model.digest[:12]}) than those that wrote "
            f"this response ({wrote[:12]}). Offer those again to verify it.",
            param="id",
            code="model_changed",
        )
    with models.database.reading() as connection:
        items = records.conversation(connection, who.owner_id, record.id)
    tokens = [sequence["tokens"] for sequence in record.output["sequences"]]
    replay = {"of": record.id, "tokens": tokens, "receipt": record.output.get("receipt", {})}
    return NewJob(
        id=f"resp_{secrets.token_hex(16)}",
        owner_id=who.owner_id,
        api_key_id=who.key_id,
        kind=KIND,
        queue=QueueName.GENERATE,
        model=record.model,
        tier=Tier.STANDARD,
        tokens=record.output["prompt_tokens"] + sum(map(len, tokens)),
        request=record.request | {"background": True, "store": True},
        input=record.input | {"replay": replay, "stream": False},
        width=GenerationInput.model_validate(record.input).width,
        conversation=items,
    )


def _check_stream(asked: ResponseRequest) -> None:
    if asked.stream_options is not None and not asked.stream:
        said = "'stream_options' goes with a stream only. Send 'stream': true too, or leave it out."
        raise BadRequest(said, param="stream_options", code="unsupported_value")
    if asked.stream and asked.num_beams > 1:
        said = "What a beam search finds is known at its end only, so it cannot be streamed."
        raise BadRequest(
            f"{said} Leave 'num_beams' or 'stream' out.", param="num_beams", code="unsupported_value"
        )


def _limit(asked: ResponseRequest) -> tuple[str, int | None]:
    if asked.max_tokens is None:
        return "max_output_tokens", asked.max_output_tokens
    if asked.max_output_tokens is not None:
        said = "'max_tokens' is another name for 'max_output_tokens'. Send one of them."
        raise BadRequest(said, param="max_tokens", code="duplicate_parameter")
    return "max_tokens", asked.max_tokens
