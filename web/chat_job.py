"""The job that a request for a chat completion asks for, whole and checked."""

from jobs.attempts import NewJob
from jobs.inputs import GenerationInput
from jobs.keys import Identity
from web import choices, prompts, sampling
from web.catalogue import Models
from web.chat_request import ChatRequest
from web.errors import BadRequest

KIND = "chat"


def new_job(models: Models, who: Identity, asked: ChatRequest) -> NewJob:
    """The job that a request asks for, whole and checked.

    Raises:
        BadRequest: it does not fit itself or its model, or the model is none for a chat.
        NotFound: there is no such model.
    """
    limit_name, limit = asked.limit()
    if asked.top_logprobs is not None and not asked.logprobs:
        said = "'top_logprobs' goes with 'logprobs' only. Send 'logprobs': true too, or leave it out."
        raise BadRequest(said, param="top_logprobs", code="unsupported_value")
    choices.check(asked)
    model = models.offers.require(asked.model, who.owner_id)
    if model.chat_template is None:
        said = (
            f"The model '{model.name}' is a base model without a chat template, so it cannot read messages."
        )
        raise BadRequest(
            f"{said} Send text to /v1/completions, or name another model.",
            param="model",
            code="no_chat_template",
        )
    turns = [prompts.turn(message.role, message.text, message.name) for message in asked.messages]
    prompt = prompts.rendered(models.tokenizers, model, turns, "messages")
    read = models.tokenizers.count(model, prompt, "messages")
    room = model.context - read
    most = sampling.limit_of(asked, limit, room, room, limit_name)  # all of the room, as OpenAI's
    chosen = sampling.decide(asked, model, models.tokenizers, most, asked.alternatives)
    work = GenerationInput(prompts=(prompt,), n=asked.n, stream=asked.stream, sampling=chosen)
    shown = {"user": asked.user, "metadata": asked.metadata}
    return choices.unkept("chatcmpl", KIND, who, model, asked, work, read, **shown)
