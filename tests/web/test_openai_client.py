"""The official client, in strict mode, against a real server."""

import threading
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from jobs.errors import NumericalError
from tests.web.conftest import FakeWorker, output


@pytest.fixture
def client(address: str, key: str) -> Iterator[OpenAI]:
    """The client, which refuses every object that is not exactly as documented."""
    with OpenAI(
        base_url=f"{address}/v1", api_key=key, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_a_background_response_from_submission_to_deletion(client: OpenAI, worker: FakeWorker) -> None:
    made = client.responses.create(model="starter", input="def", background=True, metadata={"a": "b"})
    assert (made.status, made.background, made.metadata) == ("queued", True, {"a": "b"})
    (job,) = worker.claim()
    assert client.responses.retrieve(made.id).status == "in_progress"
    worker.settle(job, output(" name"))
    done = client.responses.retrieve(made.id, extra_query={"wait": 5})
    assert (done.status, done.output_text) == ("completed", " name")
    assert done.usage is not None
    assert done.usage.total_tokens == 5
    assert done._request_id
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_synchronous_response_with_every_parameter(client: OpenAI, worker: FakeWorker) -> None:
    worker.start(lambda job: output("text", finish="length"))
    done = client.responses.create(
        model="org/chat",
        instructions="be brief",
        input=[{"role": "user", "content": "hi"}],
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=16,
        store=False,
        user="me",
        extra_body={"seed": 7, "top_k": 5, "min_tokens": 1, "ignore_eos": True, "stop": ["x"]},
    )
    assert (done.status, done.instructions, done.output_text) == ("incomplete", "be brief", "text")
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"
    assert done.model_extra is not None
    assert done.model_extra["seed"] == 7


def test_an_answer_can_be_sent_back_as_input(client: OpenAI, worker: FakeWorker) -> None:
    worker.start(lambda job: output("hello"))
    first = client.responses.create(model="org/chat", input="hi")
    turns = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in first.output)]
    again = client.responses.create(
        model="org/chat",
        input=[*turns, {"role": "user", "content": "and?"}],  # type: ignore[list-item]
    )
    assert again.output_text == "hello"


def test_a_failed_response(client: OpenAI, worker: FakeWorker) -> None:
    worker.start(lambda job: NumericalError("The logits were not finite."))
    failed = client.responses.create(model="starter", input="def")
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("server_error", "The logits were not finite.")


def test_a_cancelled_response(client: OpenAI, worker: FakeWorker) -> None:
    made = client.responses.create(model="starter", input="def", background=True)
    (job,) = worker.claim()
    threading.Timer(0.1, worker.settle, args=(job, output("so far"))).start()
    cancelled = client.responses.cancel(made.id)
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "so far")
    assert client.responses.cancel(made.id).status == "cancelled"


def test_what_is_not_there_yet_is_called_so(client: OpenAI) -> None:
    made = client.responses.create(model="starter", input="def", background=True, include=[])
    assert client.responses.retrieve(made.id, include=[]).id == made.id
    with pytest.raises(openai.BadRequestError, match="not supported yet"):
        client.responses.retrieve(made.id, include=["file_search_call.results"])


def test_completions(client: OpenAI, worker: FakeWorker) -> None:
    worker.start(lambda job: output("a", "b"))
    done = client.completions.create(model="starter", prompt="def", n=2, max_tokens=4, seed=1)
    assert [choice.text for choice in done.choices] == ["a", "b"]
    assert done.usage is not None
    assert done.usage.completion_tokens == 4


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["org/chat", "starter"]
    assert client.models.retrieve("org/chat").id == "org/chat"


def test_errors_are_the_client_s_own(client: OpenAI, address: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="starter", input="def", temperature=3)
    assert (refused.value.param, refused.value.code) == ("temperature", "decimal_above_max_value")
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="gpt-9", prompt="a")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with (
        OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as wrong,
    ):
        stranger.models.list()
    assert wrong.value.code == "invalid_api_key"
