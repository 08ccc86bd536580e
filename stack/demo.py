"""`make demo`: generations and a fine-tune on one machine, from the first request to the last token."""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from jobs import settings
from jobs.errors import BadSetting
from jobs.settings import Settings
from stack import lesson
from stack.up import address, available, wait_for_models

JOBS = 32
_LENGTHS = (16, 32, 48, 64, 96, 128, 160, 192)  # tokens
_CANCELLED = 0  # the job that is cancelled while it runs; it has the longest way to go
_CANCELLED_LENGTH = 384  # tokens
_PROMPTS = ("\ndef ", "\nclass ", "\nimport ", '\n"""', "\nfor ", "\n# ", "\nif __name__", "\nreturn ")
_START_SECONDS = 180
_RUN_SECONDS = 300
_DONE = {"completed", "incomplete", "failed", "cancelled"}


class DemoFailed(Exception):
    """Something that the demo promises did not happen."""


class Client:
    """The few requests that the demo sends."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request; a refusal raises DemoFailed with the server's own sentence."""
        return self._send(method, path, None if body is None else json.dumps(body).encode(), self._headers)

    def upload(self, name: str, content: bytes, purpose: str) -> str:
        """Send one file; return its id."""
        body, kind = lesson.multipart({"purpose": purpose}, name, content)
        return str(self._send("POST", "/v1/files", body, self._headers | {"Content-Type": kind})["id"])

    def _send(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise DemoFailed(f"{method} {path}: {error.read().decode()}") from None

    def submit(self, model: str, number: int) -> str:
        """One generation in the background; return its id."""
        length = _CANCELLED_LENGTH if number == _CANCELLED else _LENGTHS[number % len(_LENGTHS)]
        body = {
            "model": model,
            "input": _PROMPTS[number % len(_PROMPTS)],
            "background": True,
            "max_output_tokens": length,
            "ignore_eos": True,
            "temperature": 0.7,
            "seed": number,
        }
        return str(self.call("POST", "/v1/responses", body)["id"])

    def newest(self) -> dict[str, dict[str, Any]]:
        """The newest jobs by id."""
        return {job["id"]: job for job in self.call("GET", "/v1/responses?limit=100")["data"]}


def run(client: Client, model: str) -> tuple[list[dict[str, Any]], float]:
    """Submit, poll, cancel one; return the final objects in order and the seconds from first to last."""
    began = time.monotonic()
    ids = [client.submit(model, number) for number in range(JOBS)]
    cancelled = False
    while True:
        jobs = client.newest()
        if not cancelled and jobs[ids[_CANCELLED]]["status"] == "in_progress":
            client.call("POST", f"/v1/responses/{ids[_CANCELLED]}/cancel")
            cancelled = True
        if all(jobs[key]["status"] in _DONE for key in ids):
            return [client.call("GET", f"/v1/responses/{key}") for key in ids], time.monotonic() - began
        if time.monotonic() - began > _RUN_SECONDS:
            raise DemoFailed(f"not done after {_RUN_SECONDS} s")
        time.sleep(0.05)


def check(jobs: list[dict[str, Any]]) -> None:
    """See that every job ended as it should."""
    for number, job in enumerate(jobs):
        expected = {"cancelled"} if number == _CANCELLED else {"completed", "incomplete"}
        if job["status"] not in expected:
            raise DemoFailed(
                f"{job['id']} is {job['status']}, expected {' or '.join(sorted(expected))}: {job['error']}"
            )
        if number != _CANCELLED and job["usage"]["output_tokens"] != _LENGTHS[number % len(_LENGTHS)]:
            raise DemoFailed(f"{job['id']} has {job['usage']['output_tokens']} tokens")


def report(jobs: list[dict[str, Any]], seconds: float) -> None:
    """Print the table and what the stack added to the engine's own time."""
    print(f"{'id':14} {'status':10} {'queue ms':>8} {'tokens':>6} {'tokens/s':>8}  first words")
    overheads = []
    for job in jobs:
        tokens, rate = _tokens(job), _tokens(job) / job["engine_ms"] * 1000
        text = "".join(part["text"] for item in job["output"] for part in item["content"])
        words = json.dumps(text[:56], ensure_ascii=False)
        print(f"{job['id'][:14]} {job['status']:10} {job['queue_ms']:8.1f} {tokens:6} {rate:8.1f}  {words}")
        if job["status"] != "cancelled":
            overheads.append(job["queue_ms"] + job["run_ms"] - job["engine_ms"])
    total = sum(_tokens(job) for job in jobs)
    print(
        f"\n{total} tokens in {seconds:.2f} s: {total / seconds:.0f} tokens/s, first request to last answer"
    )
    print(
        "overhead of the stack per job (accepted to stored, less the engine's time): "
        f"median {statistics.median(overheads):.1f} ms, most {max(overheads):.1f} ms"
    )


def _tokens(job: dict[str, Any]) -> int:
    return int(job["usage"]["output_tokens"])


def _environment(folder: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"VAR_DIR": str(folder), "PORT": str(port), "HOST": "127.0.0.1"}
    for name in ("DATABASE_URL", "REDIS_URL", "ARTIFACTS_URL"):
        own[name] = ""  # blank: embedded, whatever .env says
    return {**os.environ, **own}


def _wait_until_up(stack: "subprocess.Popen[str]", config: Settings) -> str:
    """Wait until no model is being loaded any more; return the first that is there."""
    ready = wait_for_models(address(config), _START_SECONDS, lambda: stack.poll() is None)
    if ready is None:
        raise DemoFailed("the stack did not start")
    if not (names := available(ready)):
        raise DemoFailed(f"no model is available: {ready}")
    return names[0]


def _demo(folder: Path) -> None:
    environment = _environment(folder)
    os.environ.update(environment)
    config = settings.read()
    print(f"starting a stack at {address(config)} ...", flush=True)
    began = time.monotonic()
    log = (folder / "up.log").open("w")
    stack = subprocess.Popen(
        [sys.executable, "-m", "stack.up"], env=environment, stdout=log, stderr=log, text=True
    )
    try:
        model = _wait_until_up(stack, config)
        print(
            f"up after {time.monotonic() - began:.1f} s, model {model}; submitting {JOBS} generations\n",
            flush=True,
        )
        made = subprocess.run(
            [sys.executable, "-m", "stack.key"], env=environment, capture_output=True, text=True, check=True
        )
        client = Client(address(config), made.stdout.strip())
        jobs, seconds = run(client, model)
        report(jobs, seconds)
        check(jobs)
        lesson.teach(client, model)
    finally:
        stack.send_signal(signal.SIGTERM)
        ended = stack.wait(timeout=config.drain_seconds + 10)
        log.close()
    if ended != 0:
        raise DemoFailed(f"the stack ended with {ended}")


def main() -> int:
    """Run the demo in a folder of its own; keep the folder only if something failed."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    try:
        _demo(folder)
    except (DemoFailed, lesson.LessonFailed) as error:
        print(f"\ndemo failed: {error}\nlogs: {folder}", file=sys.stderr)
        return 1
    except BadSetting as error:
        print(error, file=sys.stderr)
        shutil.rmtree(folder)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        shutil.rmtree(folder)
        return 130
    shutil.rmtree(folder)
    print("\nall of it worked; everything is stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
