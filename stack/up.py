"""`make up`: start everything in order, say how to use it, and stop everything in order."""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from jobs import catalog, embedded, settings
from jobs.database import Database
from jobs.errors import BadSetting, DatabaseUnavailable
from jobs.settings import Settings
from stack import processes
from stack.migrate import migrate

_START_SECONDS = 60  # a download from the Hub may take longer, and goes on meanwhile


class Stack:
    """supervisord as a child, and what must happen between its servers and its processes."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self._supervisord: subprocess.Popen[bytes] | None = None

    def start(self) -> str | None:
        """Start the servers, migrate, start the processes; return the first key if this made it.

        Raises:
            BadSetting: something cannot be reached or does not start; the message says what.
        """
        embedded.prepare(self.config.var_dir, cluster=self.config.database_url is None)
        configuration = embedded.run_folder(self.config.var_dir) / "supervisord.conf"
        configuration.write_text(processes.configuration(self.config))
        supervisord = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
        self._supervisord = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *supervisord],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to pass on, once and in order
        )
        database = Database(self.config.database, connections=1)
        try:
            database.wait_until_up(30, self.alive)
            key = migrate(self.config.database)
            with database.transaction() as connection:
                # of an earlier start, maybe with other models
                catalog.withdraw(connection, self.config.worker)
        except DatabaseUnavailable as error:
            raise BadSetting(f"The database cannot be reached: {error}") from None
        database.close()
        self._wait_for_control()
        with processes.supervisor(self.config) as control:
            control.startProcessGroup(processes.APP, False)
        return key

    def _wait_for_control(self) -> None:
        while self.alive() and not processes.control_socket(self.config).exists():
            time.sleep(0.02)
        if not self.alive():
            raise BadSetting(
                f"supervisord did not start; see {self.config.var_dir / 'log' / 'supervisord.log'}."
            )

    def wait_until_ready(self) -> dict[str, Any]:
        """Wait until web answers and no model is being loaded any more; return what /readyz says.

        Raises:
            BadSetting: web does not answer.
        """
        ready = wait_for_models(address(self.config), _START_SECONDS, self.alive)
        if ready is None:
            raise BadSetting(f"The stack did not get ready; {self.config.var_dir / 'log'} has its logs.")
        return ready

    def alive(self) -> bool:
        """Whether supervisord runs."""
        return self._supervisord is not None and self._supervisord.poll() is None

    def wait(self) -> None:
        """Sleep until supervisord ends."""
        if self._supervisord is not None:
            self._supervisord.wait()

    def stop(self) -> None:
        """Ask supervisord to stop everybody in order; whoever is left after DRAIN_SECONDS is killed."""
        if self._supervisord is None or self._supervisord.poll() is not None:
            return
        children = _children(self._supervisord.pid)
        self._supervisord.terminate()
        try:
            self._supervisord.wait(timeout=self.config.drain_seconds)
        except subprocess.TimeoutExpired:
            self._supervisord.kill()
            self._supervisord.wait()
            for group in children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """The process groups that a supervisord started: each of its children leads one."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # it has ended
        return []


def address(config: Settings) -> str:
    """The stack's URL for a client on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"


def wait_for_models(url: str, seconds: float, worth_waiting: Callable[[], bool]) -> dict[str, Any] | None:
    """What /readyz says once no model is being loaded any more, or after `seconds`; None if nothing."""
    deadline, ready = time.monotonic() + seconds, None
    while time.monotonic() < deadline and worth_waiting():
        ready = read_json(f"{url}/readyz")
        models = (ready or {}).get("models", {}).values()
        if models and all(model["status"] != "loading" for model in models):
            break
        time.sleep(0.1)
    return ready


def available(ready: dict[str, Any]) -> list[str]:
    """The names of the models that can serve, of what /readyz says."""
    return [name for name, model in ready["models"].items() if model["status"] == "available"]


def read_json(url: str) -> dict[str, Any] | None:
    """The JSON object at `url`, None while nobody answers well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def only_stack_of(var_dir: Path) -> Iterator[None]:
    """Hold the folder for one stack.

    Raises:
        BadSetting: another stack runs on it.
    """
    try:
        var_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (var_dir / "stack.lock").open("a+")
    except OSError as error:
        raise BadSetting(f"VAR_DIR {var_dir} cannot be used: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadSetting(
                f"A stack already runs on {var_dir}. Stop it, or give this one another VAR_DIR and PORT."
            ) from None
        yield


def check_port(config: Settings) -> None:
    """See that nobody listens on the port yet.

    Raises:
        BadSetting: somebody does, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            advice = "Is HOST an address of this machine?"
            if error.errno == errno.EADDRINUSE:
                other = config.port + 1 if config.port < 65535 else 8000
                advice = f"Stop what uses the port, or choose another: PORT={other} make up"
            raise BadSetting(
                f"Cannot listen on {config.host}:{config.port}: {error.strerror}. {advice}"
            ) from None


def _greeting(config: Settings, ready: dict[str, Any], key: str | None) -> str:
    url, models = address(config), ready["models"]
    there = available(ready)
    first = next((source.name for source in config.sources if source.name in there), "starter")
    body = {"model": first, "input": "\ndef main(", "max_output_tokens": 64}
    shown = f"'Authorization: Bearer {key}'" if key else '"Authorization: Bearer $KEY"'
    return "\n".join(
        [
            f"Penstock is up at {url}",
            "",
            *(
                f"  model {name}: {state.get('reason') or state['quantization']}"
                for name, state in models.items()
            ),
            "  API key: "
            + ("above" if key else f"from the first start, or another one: {_make_key(config)}"),
            f"  page:    {url}/",
            "",
            f"  curl -s {url}/v1/responses -H {shown} \\",
            f"    -H 'Content-Type: application/json' -d '{json.dumps(body)}'",
            "",
            "Ctrl-C stops everything.",
        ]
    )


def _make_key(config: Settings) -> str:
    default = Settings.model_fields["var_dir"].default
    folder = "" if config.var_dir == default else f"VAR_DIR={shlex.quote(str(config.var_dir))} "
    return f"export KEY=$({folder}make -s key)"


class _Stopped(BaseException):
    """SIGINT or SIGTERM, wherever we were."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the second Ctrl-C must not cut the first one short
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


def main() -> int:
    """Run the stack in the foreground."""
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        config = settings.read()
        with only_stack_of(config.var_dir):
            check_port(config)
            return _run(Stack(config))
    except _Stopped:
        return 0
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2


def _run(stack: Stack) -> int:
    """Start, greet, wait; whatever happens, nothing is left running when this returns."""
    try:
        print(f"Starting in {stack.config.var_dir} ...", flush=True)
        if key := stack.start():
            print(f"\nAPI key: {key}   (shown only now)", flush=True)
        print(_greeting(stack.config, stack.wait_until_ready(), key), flush=True)
        stack.wait()
        log = stack.config.var_dir / "log" / "supervisord.log"
        print(f"supervisord ended unexpectedly; see {log}", file=sys.stderr)
        return 1
    except _Stopped:
        print("\nStopping ...", flush=True)
        began = time.monotonic()
        stack.stop()
        print(f"Stopped in {time.monotonic() - began:.1f} s.", flush=True)
        return 0
    finally:
        stack.stop()


if __name__ == "__main__":
    sys.exit(main())
