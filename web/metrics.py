"""How long requests take, by route and never by who asked; several web processes add up in a folder."""

import os
import time

from flask import Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from jobs import prometheus
from jobs.settings import Settings

_OWN = CollectorRegistry()  # the clerk imports this package too, and has nothing to say of requests
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
_SECONDS = Histogram(
    "penstock_request_seconds",
    "From a request's arrival to the head of its answer; of a long poll, the wait too.",
    ["route", "method", "status"],
    buckets=_BUCKETS,
    registry=_OWN,
)
REFUSED = Counter(
    "penstock_refused_creates", "Creates that were answered 429 because too much waits.", registry=_OWN
)
_NO_ROUTE = "none"
_METHODS = frozenset(("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"))
_known: dict[tuple[str, str, int], Histogram] = {}  # to look one up by its labels takes as long as to observe


def observe(response: Response) -> None:
    """Count the request that is being answered."""
    rule = request.url_rule
    name = (_NO_ROUTE if rule is None else rule.rule, request.method, response.status_code // 100)
    series = _known.get(name)
    if series is None:
        route, method, kind = name
        shown = method if method in _METHODS else "other"  # a client may send any word
        series = _SECONDS.labels(route, shown, f"{kind}xx")
        if shown == method:
            _known[name] = series
    series.observe(time.perf_counter() - g.began)


def serve(settings: Settings) -> prometheus.Endpoint | None:
    """Export in a web process: whichever of them is asked answers for all."""
    registry = _OWN
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # see gunicorn.conf.py
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus.serve("web", settings, registry, shared=True)
