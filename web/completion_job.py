"""The job that a request for a completion asks for, whole and checked."""

from jobs.attempts import NewJob
from jobs.catalog import ModelVersion
from jobs.inputs import GenerationInput, Prompt
from jobs.keys import Identity
from web import choices, sampling
from web.catalogue import Models
from web.completion_request import DEFAULT_COMPLETION_TOKENS, CompletionRequest
from web.errors import BadRequest

KIND = "completion"


def new_job(models: Models, who: Identity, asked: CompletionRequest) -> NewJob:
    """The job that a request asks for, whole and checked.

    Raises:
        BadRequest: it does not fit itself or its model.
    """
    model = models.offers.require(asked.model, who.owner_id)
    prompts = _prompts(model, asked)
    _check(asked, len(prompts))
    least = 0 if asked.max_tokens == 0 else 1
    counts = [models.tokenizers.count(model, prompt, "prompt", least) for prompt in prompts]
    room = model.context - max(counts)
    limit = sampling.limit_of(asked, asked.max_tokens, DEFAULT_COMPLETION_TOKENS, room)
    chosen = sampling.decide(asked, model, models.tokenizers, limit, asked.alternatives)
    work = GenerationInput(
        prompts=prompts,
        n=asked.n,
        best_of=asked.best_of,
        echo=asked.echo,
        stream=asked.stream,
        sampling=chosen,
    )
    return choices.unkept("cmpl", KIND, who, model, asked, work, sum(counts), user=asked.user)


def _check(asked: CompletionRequest, prompts: int) -> None:
    choices.check(asked, prompts)
    if asked.generated < asked.n:
        said = f"'best_of' is {asked.best_of}, but 'n' of them are returned, which is {asked.n}."
        raise BadRequest(f"{said} Send at least {asked.n}.", param="best_of", code="integer_below_min_value")
    if asked.num_beams > 1 and asked.best_of is not None:
        said = "'best_of' does not go with beam search. Leave one of the two out."
        raise BadRequest(said, param="best_of", code="unsupported_value")
    if asked.num_beams > 1 and asked.max_tokens == 0:
        said = "A beam search writes something. Send 1 at least as 'max_tokens', or leave 'num_beams' out."
        raise BadRequest(said, param="max_tokens", code="integer_below_min_value")
    if asked.stream and asked.generated > asked.n:
        said = "The best of many are known at the end only, so they cannot be streamed."
        raise BadRequest(
            f"{said} Leave 'best_of' or 'stream' out.", param="best_of", code="unsupported_value"
        )


def _prompts(model: ModelVersion, asked: CompletionRequest) -> tuple[Prompt, ...]:
    if asked.prompt is None:
        return ((model.eos_token_id,),)
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in asked.prompt)
