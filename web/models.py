"""`/v1/models`: what there is to generate with."""

from typing import Any

from flask import Blueprint, Response, jsonify

from jobs.catalog import ModelVersion, Offer
from web import query
from web.backend import backend

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
def index() -> Response:
    """Every model that a worker offers."""
    query.parse(query.Query)
    offers = backend().offers.all()
    return jsonify(object="list", data=[_object(o.version, o) for o in offers.values() if o.version])


@blueprint.get("/v1/models/<path:model>")
def show(model: str) -> Response:
    """One model; its name may hold slashes."""
    query.parse(query.Query)
    offers = backend().offers
    version = offers.require(model)
    return jsonify(_object(version, offers.all()[model]))


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
