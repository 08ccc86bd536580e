"""Streams through gunicorn, Redis and a real worker, while one after the other fails."""

import os
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.conftest import wait_for
from tests.end_to_end.conftest import RunningStack

LONG: dict[str, Any] = {
    "model": "starter",
    "input": "\ndef ",
    "max_output_tokens": 450,
    "stream": True,
    "extra_body": {"seed": 3, "ignore_eos": True},
}


@pytest.fixture
def client(stack: RunningStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def stream(stack: RunningStack, job: str, after: int | None = None) -> bytes:
    """The bytes of a stream, without the comments."""
    start = "" if after is None else f"&starting_after={after}"
    request = urllib.request.Request(
        f"{stack.url}/v1/responses/{job}?stream=true{start}", headers={"Authorization": f"Bearer {stack.key}"}
    )
    with urllib.request.urlopen(request, timeout=90) as answer:
        whole: bytes = answer.read()
    return whole.replace(b": keepalive\n\n", b"")


def test_a_stream_survives_its_worker_and_is_the_same_for_who_comes_back(
    stack: RunningStack, client: openai.OpenAI
) -> None:
    found = []
    for number in range(7):  # in company it takes its time
        stack.submit(max_output_tokens=480, seed=number)
    for event in client.responses.create(**LONG, background=True):
        found.append(event)
        if len(found) == 10:
            os.kill(stack.pid("worker"), signal.SIGKILL)
    end = found[-1]
    assert end.type == "response.incomplete"
    assert end.response.model_extra is not None
    assert end.response.model_extra["attempt"] == 2
    text = "".join(event.delta for event in found if event.type == "response.output_text.delta")
    assert text == end.response.output_text
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert list(client.responses.retrieve(end.response.id, stream=True)) == found
    whole = stream(stack, end.response.id)
    assert whole.endswith(resumed := stream(stack, end.response.id, after=59))
    assert resumed.count(b"event: ") == len(found) - 60


def test_a_stream_ends_whole_while_redis_stands_still(stack: RunningStack, client: openai.OpenAI) -> None:
    found, redis = [], stack.pid("redis")
    try:
        for event in client.responses.create(**LONG, background=True):
            found.append(event)
            if len(found) == 30:
                os.kill(redis, signal.SIGSTOP)
    finally:
        os.kill(redis, signal.SIGCONT)
    end = found[-1]
    assert end.type == "response.incomplete"
    assert list(client.responses.retrieve(end.response.id, stream=True)) == found


def test_a_client_that_goes_away_cancels_what_it_waited_for(
    stack: RunningStack, client: openai.OpenAI
) -> None:
    worker = stack.pid("worker")
    os.kill(worker, signal.SIGSTOP)  # else it might be done before it hears
    try:
        with client.responses.create(**LONG) as events:
            job = next(iter(events)).response.id  # type: ignore[union-attr]
        wait_for(lambda: stack.get(job)["status"] == "cancelled", seconds=3)
    finally:
        os.kill(worker, signal.SIGCONT)
