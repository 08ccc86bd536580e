"""What completions and chat completions share: several texts of one request, whole or streamed."""

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jobs.attempts import NewJob, Tier
from jobs.catalog import ModelVersion
from jobs.inputs import MAX_SEQUENCES, GenerationInput
from jobs.keys import Identity
from jobs.queue import QueueName
from web.errors import BadRequest
from web.requests import SampledRequest


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    include_usage: bool | None = False
    include_obfuscation: bool | None = False  # a hint only: chunks are never padded


class ChoicesRequest(SampledRequest):
    """A request that is answered with `choices`."""

    n: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] = 1
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts the tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def alternatives(self) -> int | None:
        """How many are shown for each token; None: no log-probabilities at all."""
        raise NotImplementedError

    @property
    def generated(self) -> int:
        """How many texts are written for each prompt; at least the `n` that are shown."""
        return self.n


def unkept(
    prefix: str,
    kind: str,
    who: Identity,
    model: ModelVersion,
    asked: ChoicesRequest,
    work: GenerationInput,
    prompt_tokens: int,
    **shown: Any,
) -> NewJob:
    """The job of a call that waits for its answer, which nobody can retrieve later; `shown` is echoed."""
    return NewJob(
        id=f"{prefix}-{secrets.token_hex(16)}",
        owner_id=who.owner_id,
        api_key_id=who.key_id,
        kind=kind,
        queue=QueueName.GENERATE,
        model=model.name,
        tier=Tier.INTERACTIVE,
        tokens=work.cost(prompt_tokens),
        **asked.urgency,
        request=shown,
        input=work.model_dump(mode="json"),
        width=work.width,
        stored=False,
    )


def check(asked: ChoicesRequest, prompts: int = 1) -> None:
    """How many texts there are, and how they are told, goes together with the rest.

    Raises:
        BadRequest: it contradicts itself, or asks for too many.
    """
    if asked.stream_options is not None and not asked.stream:
        said = "'stream_options' goes with a stream only. Send 'stream': true too, or leave it out."
        raise BadRequest(said, param="stream_options", code="unsupported_value")
    if asked.num_beams > 1:
        _check_beams(asked)
    name, each = ("n", asked.n) if asked.generated == asked.n else ("best_of", asked.generated)
    if prompts * each > MAX_SEQUENCES:
        said = f"'{name}' is {each} for each of {prompts} prompts, {prompts * each} texts in all."
        raise BadRequest(
            f"{said} Send at most {MAX_SEQUENCES // prompts} as '{name}', or fewer prompts.",
            param=name,
            code="integer_above_max_value",
        )


def _check_beams(asked: ChoicesRequest) -> None:
    if asked.n > asked.num_beams:
        said = f"'n' is {asked.n}, but a beam search with 'num_beams' {asked.num_beams} finds no more texts."
        raise BadRequest(f"{said} Send at most {asked.num_beams}.", param="n", code="integer_above_max_value")
    if asked.alternatives is not None:
        said = "'logprobs' does not go with beam search. Leave one of the two out."
        raise BadRequest(said, param="logprobs", code="unsupported_value")
    if asked.stream:
        said = "What a beam search finds is known at its end only, so it cannot be streamed."
        raise BadRequest(
            f"{said} Leave 'num_beams' or 'stream' out.", param="num_beams", code="unsupported_value"
        )
