"""A batch through the whole stack, with the official client, while processes die."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch

from tests.conftest import wait_for
from tests.end_to_end.conftest import RunningStack


@pytest.fixture
def client(stack: RunningStack) -> Iterator[OpenAI]:
    """The client, which refuses every object that is not exactly as documented."""
    with OpenAI(
        base_url=f"{stack.url}/v1",
        api_key=stack.key,
        max_retries=6,  # web is killed and started again
        _strict_response_validation=True,
    ) as client:
        yield client


def create(client: OpenAI, lines: int, tokens: int) -> Batch:
    """A batch of so many completions."""
    body = {"model": "starter", "prompt": "\ndef ", "max_tokens": tokens, "ignore_eos": True}
    written = [
        {"custom_id": f"line {n}", "method": "POST", "url": "/v1/completions", "body": body | {"seed": n}}
        for n in range(lines)
    ]
    content = "\n".join(map(json.dumps, written)).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h", metadata={"a": "b"}
    )


def end(client: OpenAI, batch: Batch, status: str) -> Batch:
    """The batch at its end."""

    def ended() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status == status else None

    return wait_for(ended, seconds=90, every=0.1)


def results(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch_runs_to_its_end(client: OpenAI) -> None:
    made = create(client, 20, 8)
    assert (made.status, made.metadata) == ("validating", {"a": "b"})
    done = end(client, made, "completed")
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed) == (20, 20)
    assert done.usage is not None
    assert done.usage.output_tokens == 160
    found = results(client, done.output_file_id)
    assert sorted(one["custom_id"] for one in found) == sorted(f"line {n}" for n in range(20))
    assert all(one["response"]["body"]["usage"]["completion_tokens"] == 8 for one in found)
    assert made.id in [batch.id for batch in client.batches.list(limit=5)]


def test_no_line_is_lost_or_doubled_while_clerk_worker_and_web_are_killed(
    client: OpenAI, stack: RunningStack
) -> None:
    made = create(client, 3000, 1)
    wait_for(lambda: client.batches.retrieve(made.id).request_counts.total, every=0.01)
    for name in ("clerk", "worker", "web"):
        os.kill(stack.pid(name), signal.SIGKILL)
        wait_for(lambda name=name: stack.pid(name))
    done = end(client, made, "completed")
    found = results(client, done.output_file_id) + results(client, done.error_file_id)
    assert len(found) == 3000
    assert {one["custom_id"] for one in found} == {f"line {n}" for n in range(3000)}


def test_a_cancelled_batch_stops_its_running_lines_and_keeps_the_finished_ones(client: OpenAI) -> None:
    made = create(client, 40, 400)
    wait_for(lambda: client.batches.retrieve(made.id).request_counts.completed > 0, seconds=60)
    assert client.batches.cancel(made.id).status == "cancelling"
    done = end(client, made, "cancelled")
    kept, left = results(client, done.output_file_id), results(client, done.error_file_id)
    assert 0 < len(kept) < 40
    assert len(kept) + len(left) == 40
    assert {one["error"]["code"] for one in left} == {"batch_cancelled"}
