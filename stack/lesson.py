"""The demo's fine-tune: the starter learns this repository's documentation, and says what it says then."""

import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

from stack import ROOT
from stack.api import Client

_PROMPT = "Penstock "
_TOKENS = 48
_SECONDS = 300  # at the most
_EPOCHS, _RATE = 2, 4.0
_WIDTH = 52  # characters of a column
_DONE = {"succeeded", "failed", "cancelled"}


class DemoFailed(Exception):
    """Something that the demo promises did not happen."""


def teach(api: Client, model: str) -> None:
    """Fine-tune, show how the loss falls, and what both models say; raises DemoFailed."""
    before = _says(api, model)
    file_id = api.upload("documentation.md", _documentation(), "fine-tune")
    began = time.monotonic()
    job = api.call(
        "POST",
        "/v1/fine_tuning/jobs",
        {
            "model": model,
            "training_file": file_id,
            "suffix": "docs",
            "seed": 1,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": _EPOCHS, "learning_rate_multiplier": _RATE}},
            },
        },
    )
    print(f"\nfine-tuning {model} on this repository's documentation: {job['id']}\n", flush=True)
    losses = _watch(api, job["id"])
    ended = api.call("GET", f"/v1/fine_tuning/jobs/{job['id']}")
    if ended["status"] != "succeeded":
        raise DemoFailed(f"{job['id']} is {ended['status']}: {ended['error']}")
    if len(losses) < 2 or losses[-1] >= losses[0]:
        raise DemoFailed(f"the training loss did not fall: {losses}")
    name, seconds = ended["fine_tuned_model"], time.monotonic() - began
    print(f"\n{ended['trained_tokens']:,} tokens in {seconds:.1f} s, start and end included: {name}\n")
    _print_columns(("before", before), ("after", _says(api, name)))


def _documentation() -> bytes:
    """Everything that this repository says in words."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n\n".join(path.read_text() for path in paths).encode()


def _watch(api: Client, job_id: str) -> list[float]:
    """Print the metrics as they come; return the training losses."""
    print(f"{'step':>9}  {'training loss':>13}  {'validation loss':>15}  {'tokens/s':>8}")
    losses: list[float] = []
    deadline = time.monotonic() + _SECONDS
    seen: str | None = None
    while True:
        status = api.call("GET", f"/v1/fine_tuning/jobs/{job_id}")["status"]
        for event in _new_events(api, job_id, seen):
            seen = event["id"]
            data = event["data"]
            if data.get("train_loss") is not None:
                losses.append(data["train_loss"])
            if data.get("valid_loss") is not None or len(losses) == 1:
                print(_row(data), flush=True)
        if status in _DONE:
            return losses
        if time.monotonic() > deadline:
            raise DemoFailed(f"{job_id} is not done after {_SECONDS} s")
        time.sleep(0.2)


def _new_events(api: Client, job_id: str, seen: str | None) -> Iterator[dict[str, Any]]:
    """Those since the event `seen`, the oldest first."""
    page = api.call("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit=100")["data"]
    ids = [event["id"] for event in page]
    yield from reversed(page[: ids.index(seen)] if seen in ids else page)


def _row(data: dict[str, Any]) -> str:
    step = f"{data['step']}/{data['total_steps']}"
    cells = [data.get("train_loss"), data.get("valid_loss")]
    train, valid = ("" if cell is None else f"{cell:.3f}" for cell in cells)
    rate = data.get("tokens_per_second")
    return f"{step:>9}  {train:>13}  {valid:>15}  {'' if rate is None else f'{rate:,.0f}':>8}"


def _says(api: Client, model: str) -> str:
    body = {"model": model, "input": _PROMPT, "max_output_tokens": _TOKENS, "temperature": 0.7, "seed": 1}
    answer = api.call("POST", "/v1/responses", body)
    return _PROMPT + "".join(part["text"] for item in answer["output"] for part in item["content"])


def _print_columns(left: tuple[str, str], right: tuple[str, str]) -> None:
    """Two texts side by side under their titles."""
    columns = [[title, "-" * len(title), *_wrapped(text)] for title, text in (left, right)]
    height = max(map(len, columns))
    for first, second in zip(*(column + [""] * (height - len(column)) for column in columns), strict=True):
        sys.stdout.write(f"{first:<{_WIDTH}}  {second}".rstrip() + "\n")


def _wrapped(text: str) -> list[str]:
    lines = [textwrap.wrap(line, _WIDTH, drop_whitespace=False) or [""] for line in text.splitlines()]
    return [part for line in lines for part in line]
