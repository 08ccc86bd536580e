"""Run every scenario against the server that stdin describes; print what went wrong in which."""

import json
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import openai

from tests.conformance.scenarios import (  # noqa: F401
    asynchronous,
    batches,
    chat,
    completions,
    errors,
    files,
    fine_tuning,
    models,
    responses,
    retries,
    webhooks,
)
from tests.conformance.scenarios.registry import MAJOR, SCENARIOS, SINCE, Scenario, Server

TOGETHER = 4  # what one waits for, another uses


def outcome(scenario: Scenario, server: Server) -> str | None:
    """The traceback of a scenario that failed."""
    try:
        scenario(server)
    except Exception:  # noqa: BLE001
        return traceback.format_exc()
    return None


def main() -> None:
    server = Server(**json.load(sys.stdin))
    due = {name: made for name, made in SCENARIOS.items() if SINCE[name] <= MAJOR}
    with ThreadPoolExecutor(TOGETHER) as pool:
        outcomes = pool.map(lambda made: outcome(made, server), due.values())
        json.dump(
            {"version": openai.__version__, "outcomes": dict(zip(due, outcomes, strict=True))}, sys.stdout
        )


main()
