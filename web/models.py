"""`/v1/models`: what there is to generate with."""

from typing import Any

from flask import Blueprint, Response, jsonify

from jobs import catalog, files
from jobs.catalog import ModelVersion, Offer
from web import query
from web.auth import owner_id
from web.backend import backend
from web.errors import Conflict, Forbidden
from web.offers import version_of

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
def index() -> Response:
    """Every model that a worker offers."""
    query.parse(query.Query)
    offers = backend().offers.seen_by(owner_id())
    return jsonify(object="list", data=[_object(o.version, o) for o in offers.values() if o.version])


@blueprint.get("/v1/models/<path:model>")
def show(model: str) -> Response:
    """One model; its name may hold slashes."""
    query.parse(query.Query)
    offers = backend().offers.seen_by(owner_id())
    return jsonify(_object(version_of(model, offers), offers[model]))


@blueprint.delete("/v1/models/<path:model>")
def delete(model: str) -> Response:
    """Delete a fine-tuned model that no job needs."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        # PostgreSQL takes no NUL
        if "\0" in model or not catalog.is_fine_tuned(connection, owner_id(), model):
            backend().offers.require(model, owner_id())  # one that is not there is not found, as everywhere
            said = f"The model '{model}' is not one of your fine-tuned models. Only those can be deleted."
            raise Forbidden(said, param="model", code="model_not_deletable")
        if job_id := catalog.needed_by(connection, model):
            said = f"The model '{model}' is needed by {job_id}. Cancel that or wait for its end."
            raise Conflict(said, param="model", code="model_in_use", should_retry=False)
        files.loosen(connection, catalog.remove(connection, owner_id(), model))
    backend().offers.forget()
    return jsonify(id=model, object="model", deleted=True)


def _object(version: ModelVersion, offer: Offer) -> dict[str, Any]:
    return {
        "id": version.name,
        "object": "model",
        "created": int(offer.since.timestamp()),
        "owned_by": "penstock",
        "digest": version.digest,
        "context": version.context,
        "quantization": version.quantization,
        "parameters": version.parameters,
    }
