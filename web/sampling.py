"""The sampling of a job: what the caller left open is decided here, so that a rerun says the same."""

import secrets

from jobs.catalog import ModelVersion
from jobs.inputs import Sampling
from web.errors import BadRequest
from web.prompts import Tokenizers, refuse_unknown_tokens
from web.requests import SampledRequest

_SEED_BITS = 32  # of a seed that we draw: any client's language holds it exactly
_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_OF_BEAMS = ("length_penalty", "early_stopping")


def decide(
    request: SampledRequest,
    model: ModelVersion,
    tokenizers: Tokenizers,
    limit: int,
    logprobs: int | None = None,
) -> Sampling:
    """The sampling of a request that may generate `limit` tokens (see `limit_of`).

    Raises:
        BadRequest: parameters that contradict each other or do not fit the model.
    """
    beams = request.num_beams > 1
    if beams:
        _check_beams(request, model)
    else:
        _refuse_given(request, _OF_BEAMS, "is of beam search only. Send 'num_beams' too, or leave it out.")
    refuse_unknown_tokens(model, map(int, request.logit_bias), "logit_bias")
    refuse_unknown_tokens(model, request.stop_token_ids, "stop_token_ids")
    return Sampling(
        max_tokens=limit,
        min_tokens=request.min_tokens,
        seed=request.seed if request.seed is not None else secrets.randbits(_SEED_BITS),
        logit_bias={int(token): bias for token, bias in request.logit_bias.items()},
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        no_repeat_ngram_size=request.no_repeat_ngram_size,
        bad_words=tuple(tokenizers.spellings(model, request.bad_words)),
        temperature=0.0 if beams else request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        typical_p=request.typical_p,
        num_beams=request.num_beams,
        length_penalty=request.length_penalty,
        early_stopping=request.early_stopping,
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        logprobs=logprobs,
    )


def limit_of(
    request: SampledRequest, asked: int | None, default: int, room: int, name: str = "max_tokens"
) -> int:
    """How many tokens a request may generate whose context leaves `room` for output.

    `asked` is the limit that the caller gave under `name`, if any; the default is cut to the room.

    Raises:
        BadRequest: more tokens asked for than fit, or a minimum above the limit.
    """
    if asked is not None and asked > room:
        said = f"'{name}' is {asked}, but beside the prompt the context has room for {room} tokens."
        raise BadRequest(f"{said} Send at most {room}.", param=name, code="context_length_exceeded")
    limit = asked if asked is not None else min(default, room)
    if request.min_tokens > limit:
        said = f"'min_tokens' is {request.min_tokens}, but at most {limit} tokens are generated."
        hint = f"Send at most {limit}, or a larger '{name}'." if limit < room else f"Send at most {limit}."
        raise BadRequest(f"{said} {hint}", param="min_tokens", code="integer_above_max_value")
    return limit


def _check_beams(request: SampledRequest, model: ModelVersion) -> None:
    if request.num_beams > model.slots:
        said = f"'num_beams' is {request.num_beams}, but a batch of the model '{model.name}' has"
        raise BadRequest(
            f"{said} {model.slots} slots, one for each beam. Send at most {model.slots}.",
            param="num_beams",
            code="integer_above_max_value",
        )
    given = [name for name in _OF_SAMPLING if not (name == "temperature" and request.temperature == 0)]
    _refuse_given(
        request, given, "is of sampling, and beam search does not sample. Leave one of the two out."
    )
    _refuse_given(request, ["stop"], "does not go with beam search. Send 'stop_token_ids', or leave it out.")


def _refuse_given(request: SampledRequest, names: list[str] | tuple[str, ...], why: str) -> None:
    """Refuse what was given and differs from what it is when left out."""
    for name in names:
        if name not in request.model_fields_set:
            continue
        default = type(request).model_fields[name].get_default(call_default_factory=True)
        if getattr(request, name) != default:
            raise BadRequest(f"'{name}' {why}", param=name, code="unsupported_value")
