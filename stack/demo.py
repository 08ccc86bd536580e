"""`make demo`: generations and a fine-tune on one machine, from the first request to the last token."""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs.errors import BadSetting
from stack import lesson, private
from stack.api import Client, Refused
from stack.lesson import DemoFailed
from stack.private import StackFailed

JOBS = 32
_LENGTHS = (16, 32, 48, 64, 96, 128, 160, 192)  # tokens
_CANCELLED = 0  # the job that is cancelled while it runs; it has the longest way to go
_CANCELLED_LENGTH = 384  # tokens
_PROMPTS = ("\ndef ", "\nclass ", "\nimport ", '\n"""', "\nfor ", "\n# ", "\nif __name__", "\nreturn ")
_RUN_SECONDS = 300
_DONE = {"completed", "incomplete", "failed", "cancelled"}


def submit(client: Client, model: str, number: int) -> str:
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
    return str(client.call("POST", "/v1/responses", body)["id"])


def newest(client: Client) -> dict[str, dict[str, Any]]:
    """The newest jobs by id."""
    return {job["id"]: job for job in client.call("GET", "/v1/responses?limit=100")["data"]}


def run(client: Client, model: str) -> tuple[list[dict[str, Any]], float]:
    """Submit, poll, cancel one; return the final objects in order and the seconds from first to last."""
    began = time.monotonic()
    ids = [submit(client, model, number) for number in range(JOBS)]
    cancelled = False
    while True:
        jobs = newest(client)
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


def _demo(folder: Path) -> None:
    print("starting a stack of its own ...", flush=True)
    with private.running(folder) as stack:
        print(
            f"up after {stack.seconds:.1f} s, model {stack.model}; submitting {JOBS} generations\n",
            flush=True,
        )
        jobs, seconds = run(stack.client, stack.model)
        report(jobs, seconds)
        check(jobs)
        lesson.teach(stack.client, stack.model)


def main() -> int:
    """Run the demo in a folder of its own; keep the folder only if something failed."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    try:
        _demo(folder)
    except (DemoFailed, Refused, StackFailed) as error:
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
