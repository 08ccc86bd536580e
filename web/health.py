"""Whether this process lives, and whether it can take work."""

from typing import Any

from flask import Blueprint, Response, jsonify

from jobs import catalog
from jobs.catalog import Offer
from jobs.errors import DatabaseUnavailable
from web.backend import backend

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def alive() -> Response:
    """The process answers; says nothing of what it depends on."""
    return jsonify(status="alive")


@blueprint.get("/readyz")
def ready() -> Response:
    """PostgreSQL is needed; without Redis jobs still run, they are only found by looking."""
    redis = backend().signals.reachable()
    try:
        with backend().database.transaction() as connection:
            offers = catalog.listing(connection)
    except DatabaseUnavailable:
        response = jsonify(status="unavailable", database=False, redis=redis, models={})
        response.status_code = 503
        response.headers["Retry-After"] = "2"
        return response
    # nobody has shown a key here: of fine-tuned models only their owners may know
    models = {name: _model(offer) for name, offer in offers.items() if offer.owner_id is None}
    return jsonify(status="ready" if redis else "degraded", database=True, redis=redis, models=models)


def _model(offer: Offer) -> dict[str, Any]:
    if offer.version is None:
        return {"status": offer.status, "reason": offer.reason}
    return {
        "status": offer.status,
        "quantization": offer.version.quantization,
        "context": offer.version.context,
    }
