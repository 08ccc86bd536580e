"""How gunicorn serves `web`: gunicorn -c web/gunicorn.conf.py"""

# ruff: noqa: N999, E402  the name is gunicorn's convention; nothing may be imported unpatched
from gevent import monkey

monkey.patch_all()

import gc
import os
import resource
import signal
from types import FrameType

import structlog
from gunicorn.arbiter import Arbiter

from jobs import embedded, logs, settings

_settings = settings.read()


def _share_metrics() -> None:
    """Let the processes add up what they count, in files that are empty at the start."""
    folder = embedded.run_folder(_settings.var_dir) / f"metrics-{_settings.port}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.glob("*.db"):
        old.unlink()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


if _settings.metrics_port:
    _share_metrics()  # before `web` imports prometheus_client, which reads the variable then

from web import malformed, metrics, server

logs.configure("web", _settings.log_level)

wsgi_app = "web.wsgi:app"
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
worker_class = server.Worker  # greenlets: docs/web.md has the measurements
workers = _settings.web_processes
worker_connections = _settings.web_connections
preload_app = False  # pools and threads must not cross a fork
limit_request_line = malformed.MAX_REQUEST_LINE
limit_request_field_size = malformed.MAX_HEADER
keepalive = 30  # seconds; pollers come back
graceful_timeout = int(_settings.stop_seconds)
_files = worker_connections + 256  # sockets of clients; PostgreSQL, Redis, logs
_most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_most[0], min(_files, _most[1])), _most[1]))
control_socket = str(embedded.run_folder(_settings.var_dir) / "gunicorn.ctl")
accesslog = None
loglevel = "warning"


def on_starting(server: Arbiter) -> None:
    """Let gunicorn's own lines go the way of all others: one JSON object a line."""
    server.log.error_log.handlers.clear()
    server.log.error_log.propagate = True


def when_ready(server: Arbiter) -> None:
    """The port is ours."""
    structlog.get_logger("web").info("listening", address=bind)


_GARBAGE = 10_000  # objects made since the last look for cycles; Python's 700 are made by some ten requests


def post_worker_init(worker: server.Worker) -> None:
    """Everything is imported; no request has come."""
    metrics.serve(_settings)
    _collect_seldom()
    _release_at_sigterm(worker)


def _collect_seldom() -> None:
    """Never look for garbage among the 160,000 objects that stay, which would hold everybody up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


def _release_at_sigterm(worker: server.Worker) -> None:
    """Send back those who wait, or a long poll would hold the process up for minutes."""
    stop = signal.getsignal(signal.SIGTERM)

    def release_then_stop(number: int, frame: FrameType | None) -> None:
        worker.wsgi.extensions["penstock"].waiting.release()
        worker.let_idle_go()
        stop(number, frame)

    signal.signal(signal.SIGTERM, release_then_stop)


def worker_exit(server: Arbiter, worker: server.Worker) -> None:
    """Say what is left to say and close the sockets."""
    if worker.wsgi is not None:  # it is None where the application could not be made
        worker.wsgi.extensions["penstock"].close()
