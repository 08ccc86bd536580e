"""The sampling of a job: what the caller left open is decided here, so that a rerun says the same."""

import secrets

from jobs.inputs import Sampling
from web.errors import BadRequest
from web.requests import SampledRequest

_SEED_BITS = 32  # of a seed that we draw: any client's language holds it exactly


def decide(
    request: SampledRequest, asked: int | None, default: int, room: int, name: str = "max_tokens"
) -> Sampling:
    """The sampling of a request whose context leaves `room` tokens for output.

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
    return Sampling(
        max_tokens=limit,
        min_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed if request.seed is not None else secrets.randbits(_SEED_BITS),
        stop=tuple(request.stop),
        ignore_eos=request.ignore_eos,
    )
