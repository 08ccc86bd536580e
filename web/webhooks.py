"""`/v1/webhook_endpoints`: where an owner wants to be told of ends."""

import re
import secrets
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection

from jobs import webhooks
from jobs.outbox import Delivery
from jobs.webhooks import EVENT_TYPES, MAX_ENDPOINTS, WebhookEndpoint
from web import delivery, idempotency, query
from web.auth import owner_id
from web.backend import backend
from web.body import json_object, optional_json_object
from web.errors import BadRequest, NotFound, Unavailable
from web.paging import page_of
from web.webhook_requests import (
    EndpointChange,
    EndpointRequest,
    EndpointsQuery,
    Rotation,
    Trial,
    check_url,
)

blueprint = Blueprint("webhooks", __name__)

_ID = re.compile(r"we_[0-9a-f]{32}")
_TRIALS = 4
"""Samples of this process at once: a name that nobody resolves holds a thread, of which there are ten."""
_trials = BoundedSemaphore(_TRIALS)


@blueprint.before_request
def _refuse_what_is_no_id() -> None:
    endpoint_id = (request.view_args or {}).get("endpoint_id")
    if endpoint_id is not None and not _ID.fullmatch(endpoint_id):
        raise _missing(endpoint_id)


@blueprint.get("/v1/webhook_event_types")
def event_types() -> Response:
    """What an endpoint can be told of."""
    query.parse(query.Query)
    return jsonify(object="list", data=list(EVENT_TYPES))


@blueprint.post("/v1/webhook_endpoints")
def create() -> Response:
    """Make an endpoint; its signing secret is shown here and at a rotation, never again."""
    query.parse(query.Query)
    asked = EndpointRequest.parse(json_object())
    check_url(asked.url, backend().settings.webhook_allow_private)

    def make(connection: Connection) -> tuple[str, WebhookEndpoint]:
        if webhooks.count(connection, owner_id()) >= MAX_ENDPOINTS:
            said = f"There are {MAX_ENDPOINTS} webhook endpoints already. Delete one that is not needed."
            raise BadRequest(said, code="too_many_webhook_endpoints")
        made = webhooks.create(connection, owner_id(), asked.name, asked.url, asked.event_types)
        return made.id, made

    made, _ = idempotency.once(lambda connection, made: webhooks.find(connection, owner_id(), made), make)
    return jsonify(_with_secret(made))


@blueprint.get("/v1/webhook_endpoints")
def index() -> Response:
    """The owner's endpoints, the newest first."""
    asked = query.parse(EndpointsQuery)
    with backend().database.transaction() as connection:
        if asked.after is not None:
            _found(webhooks.find(connection, owner_id(), asked.after), asked.after, "after")
        found, more = webhooks.page(connection, owner_id(), asked.after, asked.limit)
    return page_of([_object(endpoint) for endpoint in found], more)


@blueprint.get("/v1/webhook_endpoints/<endpoint_id>")
def show(endpoint_id: str) -> Response:
    """One endpoint, without its secret."""
    query.parse(query.Query)
    return jsonify(_object(_mine(endpoint_id)))


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>")
def change(endpoint_id: str) -> Response:
    """Change what is sent; an endpoint that answered 410 is told again once it has a URL anew."""
    query.parse(query.Query)
    asked = EndpointChange.parse(json_object())
    if asked.url is not None:
        check_url(asked.url, backend().settings.webhook_allow_private)
    values = asked.model_dump(exclude_none=True)
    with backend().database.transaction() as connection:
        changed = webhooks.change(connection, owner_id(), endpoint_id, values)
    return jsonify(_object(_found(changed, endpoint_id)))


@blueprint.delete("/v1/webhook_endpoints/<endpoint_id>")
def delete(endpoint_id: str) -> Response:
    """Remove an endpoint; what was still to be told there is not told."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        if not webhooks.remove(connection, owner_id(), endpoint_id):
            raise _missing(endpoint_id)
    return jsonify(id=endpoint_id, object="webhook_endpoint.deleted", deleted=True)


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>/rotate_secret")
def rotate_secret(endpoint_id: str) -> Response:
    """A new secret, shown here; the old one ends at once, or signs beside it for 24 hours."""
    query.parse(query.Query)
    keep = Rotation.parse(optional_json_object()).keep_old_secret_active_for_24_hours
    with backend().database.transaction() as connection:
        rotated = webhooks.rotate(connection, owner_id(), endpoint_id, keep)
    return jsonify(_with_secret(_found(rotated, endpoint_id)))


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>/test")
def test(endpoint_id: str) -> Response:
    """Send a sample, signed like any other, and say what the target answered."""
    query.parse(query.Query)
    asked = Trial.parse(json_object())
    endpoint = _mine(endpoint_id)
    if not _trials.acquire(blocking=False):
        said = f"{_TRIALS} samples are on their way already. Try again when one of them has been answered."
        raise Unavailable(said, code="too_many_trials", retry_after=5)
    try:
        return _try(endpoint, asked.event_type)
    finally:
        _trials.release()


def _try(endpoint: WebhookEndpoint, event_type: str) -> Response:
    sample = Delivery(
        id=f"evt_{secrets.token_hex(16)}",
        owner_id=owner_id(),
        type=event_type,
        resource_id="test",
        created_at=datetime.now(UTC),
        attempt=1,
        target=endpoint.id,
        endpoint_id=endpoint.id,
        url=endpoint.url,
        signing_secrets=[endpoint.secret],
    )
    try:
        status = delivery.send(sample, backend().settings.webhook_allow_private)
    except delivery.Undelivered as error:
        said = f"The webhook could not be delivered: {error}. See that its host is up, or send another URL."
        raise BadRequest(said, param="url", code="webhook_undelivered") from None
    return jsonify(
        object="webhook_endpoint.test",
        webhook_endpoint_id=endpoint.id,
        event_type=event_type,
        status_code=status,
        success=True,
    )


def _mine(endpoint_id: str) -> WebhookEndpoint:
    with backend().database.transaction() as connection:
        return _found(webhooks.find(connection, owner_id(), endpoint_id), endpoint_id)


def _found(endpoint: WebhookEndpoint | None, endpoint_id: str, param: str = "id") -> WebhookEndpoint:
    if endpoint is None:
        raise _missing(endpoint_id, param)
    return endpoint


def _missing(endpoint_id: str, param: str = "id") -> NotFound:
    return NotFound(f"Webhook endpoint with id '{endpoint_id[:100]}' not found.", param=param)


def _object(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "created_at": int(endpoint.created_at.timestamp()),
        "updated_at": int(endpoint.updated_at.timestamp()),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "signing_secret_hint": f"{endpoint.secret[:8]}...{endpoint.secret[-4:]}",
        # ours
        "disabled_at": endpoint.disabled_at and int(endpoint.disabled_at.timestamp()),
    }


def _with_secret(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return _object(endpoint) | {"signing_secret": endpoint.secret}
