"""What may stand in requests about webhooks, and in a request that brings a webhook of its own."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from jobs.webhooks import EVENT_TYPES
from web import targets
from web.errors import BadRequest
from web.query import Query
from web.refusals import shown
from web.requests import Request


def _known_types(types: list[str]) -> list[str]:
    for one in types:
        if one not in EVENT_TYPES:
            said = "'{param}' has {got}, which is no event type of this server. Send some of {types}."
            raise PydanticCustomError(
                "invalid_value", said, {"got": shown(one), "types": ", ".join(EVENT_TYPES)}
            )
    return list(dict.fromkeys(types))


Name = Annotated[str, Field(min_length=1, max_length=256)]
Url = Annotated[str, Field(min_length=1)]
_KNOWN = {"type": "string", "enum": list(EVENT_TYPES)}
EventTypes = Annotated[
    list[Annotated[str, WithJsonSchema(_KNOWN)]], Field(min_length=1), AfterValidator(_known_types)
]


class EndpointRequest(Request):
    """`POST /v1/webhook_endpoints`."""

    name: Name
    url: Url
    event_types: EventTypes


class EndpointChange(Request):
    """`POST /v1/webhook_endpoints/{id}`."""

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class Rotation(Request):
    """`POST /v1/webhook_endpoints/{id}/rotate_secret`."""

    keep_old_secret_active_for_24_hours: bool = False


class Trial(Request):
    """`POST /v1/webhook_endpoints/{id}/test`."""

    event_type: Annotated[str, AfterValidator(lambda one: _known_types([one])[0]), WithJsonSchema(_KNOWN)]


class EndpointsQuery(Query):
    """`GET /v1/webhook_endpoints`."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: str | None = None
    order: Literal["desc"] = "desc"


def check_url(url: str, allow_private: bool, param: str = "url") -> None:
    """Refuse a URL that could never be delivered to.

    Raises:
        BadRequest: it is not an https URL of a public host.
    """
    try:
        targets.parse(url, allow_private)
    except targets.Refused as refused:
        said = f"'{param}' {refused}. Send an https URL of a public host."
        raise BadRequest(said, param=param, code="invalid_url") from None


def own_webhook(url: str | None, events: Sequence[str] | None, kinds: Sequence[str]) -> dict[str, Any] | None:
    """The webhook that a request brings itself, as its job keeps it: told of `events`, else of all `kinds`.

    Raises:
        BadRequest: a filter without a webhook.
    """
    if url is None:
        if events is not None:
            said = "'webhook_events_filter' goes with 'webhook' only. Send that too, or leave it out."
            raise BadRequest(said, param="webhook_events_filter", code="unsupported_value")
        return None
    return {"url": url, "events": list(events if events is not None else kinds)}
