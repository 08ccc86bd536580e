"""Shows what a process counts to Prometheus, on a port that is not the public one."""

import socket
import threading
from http.server import ThreadingHTTPServer
from typing import Literal

import structlog
from prometheus_client import REGISTRY, MetricsHandler, disable_created_metrics
from prometheus_client.registry import Collector, CollectorRegistry

from jobs.settings import Settings

log = structlog.get_logger(__name__)

Process = Literal["web", "worker", "trainer", "clerk", "sweeper"]
OFFSETS: dict[Process, int] = {"web": 0, "worker": 1, "trainer": 2, "clerk": 3, "sweeper": 4}
"""From METRICS_PORT to the port of each process: all of them may share a machine."""


disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each: nobody asked


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, registry: Collector, shared: bool) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.allow_reuse_port = shared
        super().__init__((host, port), MetricsHandler.factory(registry))


class Endpoint:
    """A thread that answers every GET with the metrics of `registry`."""

    def __init__(self, host: str, port: int, registry: Collector, shared: bool = False) -> None:
        """`shared`: several processes may listen, and whichever is asked answers.

        Raises:
            OSError: somebody else has the port, or the host is no address of this machine.
        """
        self._server = _Server(host, port, registry, shared)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="prometheus", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def serve(
    process: Process,
    settings: Settings,
    registry: CollectorRegistry = REGISTRY,
    shared: bool = False,
) -> Endpoint | None:
    """Begin to export if METRICS_PORT is set; a port that cannot be had is no reason not to work."""
    if settings.metrics_port == 0:
        return None
    port = settings.metrics_port + OFFSETS[process]
    try:
        return Endpoint(settings.metrics_host, port, registry, shared)
    except OSError as error:
        log.error(
            "metrics are not exported: give this process another METRICS_PORT or METRICS_HOST",
            port=port,
            error=error.strerror,
        )
        return None
