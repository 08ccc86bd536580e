"""`/v1/models`: what there is to generate with."""

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, Response, jsonify

from jobs import catalog, files, published
from jobs.catalog import ModelVersion, Offer
from web import query
from web.auth import owner_id
from web.backend import backend
from web.errors import Conflict, Forbidden

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
def index() -> Response:
    """Every model that a worker offers."""
    query.parse(query.Query)
    offers = backend().offers.seen_by(owner_id())
    lineages = _lineages(offers.values())
    data = [_object(o.version, o, lineages.get(o.name)) for o in offers.values() if o.version]
    return jsonify(object="list", data=data)


@blueprint.get("/v1/models/<path:model>")
def show(model: str) -> Response:
    """One model; its name may hold slashes."""
    query.parse(query.Query)
    offer, version = backend().offers.offer(model, owner_id())
    return jsonify(_object(version, offer, _lineages([offer]).get(model)))


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
        if adapter := published.adapter_over(connection, model):
            said = f"The model '{model}' is the base of the adapter '{adapter}'. Delete that one first."
            raise Conflict(said, param="model", code="model_in_use", should_retry=False)
        files.loosen(connection, published.remove(connection, model))
    backend().offers.forget()
    return jsonify(id=model, object="model", deleted=True)


def _lineages(offers: Iterable[Offer]) -> Mapping[str, Any]:
    """Where fine-tuned models come from; the others have no lineage."""
    names = [offer.name for offer in offers if offer.owner_id is not None]
    if not names:
        return {}
    with backend().database.reading() as connection:
        return published.lineages(connection, owner_id(), names)


def _object(version: ModelVersion, offer: Offer, lineage: Mapping[str, Any] | None) -> dict[str, Any]:
    shown = {
        "id": version.name,
        "object": "model",
        "created": int(offer.since.timestamp()),
        "owned_by": "penstock" if offer.owner_id is None else f"org-{offer.owner_id}",
        "digest": version.digest,
        "context": version.context,
        "quantization": version.quantization,
        "parameters": version.parameters,
    }
    return shown if lineage is None else shown | {"lineage": lineage}
