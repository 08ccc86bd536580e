"""The job that a request for a completion asks for, whole and checked."""

import secrets

from jobs.attempts import INTERACTIVE, NewJob
from jobs.catalog import ModelVersion
from jobs.inputs import MAX_SEQUENCES, GenerationInput, Prompt
from jobs.keys import Identity
from jobs.queue import QueueName
from web import sampling
from web.catalogue import Models
from web.completion_request import DEFAULT_COMPLETION_TOKENS, CompletionRequest
from web.errors import BadRequest

KIND = "completion"


def new_job(models: Models, who: Identity, asked: CompletionRequest) -> NewJob:
    """The job that a request asks for, whole and checked.

    Raises:
        BadRequest: it does not fit itself or its model.
    """
    model = models.offers.require(asked.model)
    prompts = _prompts(model, asked)
    _check_count(asked, len(prompts))
    longest = max(models.tokenizers.count(model, prompt, "prompt") for prompt in prompts)
    limit = sampling.limit_of(asked, asked.max_tokens, DEFAULT_COMPLETION_TOKENS, model.context - longest)
    chosen = sampling.decide(asked, model, models.tokenizers, limit, asked.logprobs)
    work = GenerationInput(
        prompts=prompts, n=asked.n, best_of=asked.best_of, echo=asked.echo, sampling=chosen
    )
    return NewJob(
        id=f"cmpl-{secrets.token_hex(16)}",
        owner_id=who.owner_id,
        api_key_id=who.key_id,
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
