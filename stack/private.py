"""A stack for one purpose: started in a folder of its own on a free port, stopped in the end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs import settings
from jobs.settings import Settings
from stack.api import Client
from stack.up import address, available, wait_for_models

_START_SECONDS = 180


class StackFailed(Exception):
    """The stack did not start, or did not end well."""


@dataclass(frozen=True)
class Running:
    """A stack that is up."""

    config: Settings
    client: Client
    model: str  # the first one that is there
    seconds: float  # that it took


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """A stack with everything embedded, whatever .env says.

    Raises:
        StackFailed: it did not start, or a process of it ended badly.
        BadSetting: a setting does not parse.
    """
    environment = _environment(folder)
    os.environ.update(environment)
    config = settings.read()
    began = time.monotonic()
    with (folder / "up.log").open("w") as log:
        stack = subprocess.Popen(
            [sys.executable, "-m", "stack.up"], env=environment, stdout=log, stderr=log, text=True
        )
        try:
            model = _wait_until_up(stack, config)
            made = subprocess.run(
                [sys.executable, "-m", "stack.key"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            client = Client(address(config), made.stdout.strip())
            yield Running(config, client, model, time.monotonic() - began)
        finally:
            stack.send_signal(signal.SIGTERM)
            ended = stack.wait(timeout=config.drain_seconds + 10)
    if ended != 0:
        raise StackFailed(f"the stack ended with {ended}")


def _environment(folder: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"VAR_DIR": str(folder), "PORT": str(port), "HOST": "127.0.0.1"}
    for name in ("DATABASE_URL", "REDIS_URL", "ARTIFACTS_URL"):
        own[name] = ""  # blank: embedded
    return {**os.environ, **own}


def _wait_until_up(stack: "subprocess.Popen[str]", config: Settings) -> str:
    """Wait until no model is being loaded any more; return the first that is there."""
    ready = wait_for_models(address(config), _START_SECONDS, lambda: stack.poll() is None)
    if ready is None:
        raise StackFailed("the stack did not start")
    if not (names := available(ready)):
        raise StackFailed(f"no model is available: {ready}")
    return names[0]
