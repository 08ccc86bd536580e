"""Chat completions: what the model is given to read, and what the official client makes of its answer."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from jobs import catalog
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.errors import NumericalError
from jobs.settings import Settings
from tests.web.conftest import CONTEXT, WRITER, Caller, FakeWorker, _version, output, the_error

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(address: str, key: str) -> Iterator[OpenAI]:
    """The client, which refuses every object that is not exactly as documented."""
    with OpenAI(
        base_url=f"{address}/v1", api_key=key, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


class Model:
    """Answers with as many texts as are asked for, and remembers what it was asked."""

    asked: dict[str, Any]

    def __call__(self, job: ClaimedJob) -> dict[str, Any]:
        self.asked = job.input
        return output(*(f"text {i}" for i in range(job.input["n"])))


@pytest.fixture
def model(worker: FakeWorker) -> Model:
    made = Model()
    worker.start(made)
    return made


def test_a_chat_completion_with_every_parameter(client: OpenAI, model: Model) -> None:
    done = client.chat.completions.create(
        model="org/chat",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
        ],
        n=2,
        max_completion_tokens=8,
        temperature=0.5,
        top_p=0.9,
        stop=["x", "y"],
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"3": 5},
        logprobs=False,
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        user="me",
        parallel_tool_calls=True,
        tool_choice="none",
        response_format={"type": "text"},
        modalities=["text"],
        prompt_cache_key="k",
        safety_identifier="s",
        extra_body={"top_k": 5, "min_p": 0.1, "ignore_eos": True, "tools": []},
    )
    assert (done.object, done.model, done.service_tier) == ("chat.completion", "org/chat", "default")
    assert done.id.startswith("chatcmpl-")
    assert done.system_fingerprint == f"fp_{WRITER[:12]}"
    assert [choice.index for choice in done.choices] == [0, 1]
    assert [choice.message.content for choice in done.choices] == ["text 0", "text 1"]
    first = done.choices[0]
    assert (first.finish_reason, first.logprobs, first.message.refusal) == ("stop", None, None)
    assert first.message.role == "assistant"
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (3, 4, 7)
    assert model.asked["prompts"] == ["<system>be brief<user>hi<assistant>"]
    sampling = model.asked["sampling"]
    assert (sampling["max_tokens"], sampling["seed"], sampling["top_k"]) == (8, 7, 5)
    assert (model.asked["n"], sampling["stop"], sampling["logit_bias"]) == (2, ["x", "y"], {"3": 5})


def test_an_answer_can_be_sent_back_as_a_turn(client: OpenAI, model: Model) -> None:
    first = client.chat.completions.create(model="org/chat", messages=HI)  # type: ignore[arg-type]
    turns: Any = [*HI, first.choices[0].message.to_dict(), {"role": "user", "content": "and?", "name": "Ann"}]
    client.chat.completions.create(model="org/chat", messages=turns)
    assert model.asked["prompts"] == ["<user>hi<assistant>text 0<user>and?<assistant>"]


def test_an_answer_that_does_not_say_may_fill_the_context(
    caller: Caller, model: Model, tokenizer: Tokenizer
) -> None:
    caller.post(CHAT, model="org/chat", messages=HI)
    read = len(tokenizer.encode("<user>hi<assistant>").ids)
    assert model.asked["sampling"]["max_tokens"] == CONTEXT - read
    for name in ("max_tokens", "max_completion_tokens"):
        caller.post(CHAT, model="org/chat", messages=HI, **{name: 5})
        assert model.asked["sampling"]["max_tokens"] == 5


@pytest.mark.parametrize(("given", "alternatives"), [({}, 0), ({"top_logprobs": 2}, 2)])
def test_log_probabilities_come_in_the_shape_of_a_chat(
    client: OpenAI, worker: FakeWorker, tokenizer: Tokenizer, given: dict[str, Any], alternatives: int
) -> None:
    digest = client.models.retrieve("org/chat").to_dict()["digest"]
    tokens = tokenizer.encode(" é").ids
    top = [[tokens[0], -0.5], [5, -2.0]][:alternatives]
    stored = [{"token": token, "logprob": -0.5, "top": top} for token in tokens]
    asked: list[int] = []

    def perform(job: ClaimedJob) -> dict[str, Any]:
        asked.append(job.input["sampling"]["logprobs"])
        sequence = {"text": " é", "tokens": tokens, "finish_reason": "length", "logprobs": stored}
        return output() | {"sequences": [sequence], "model_digest": digest}

    worker.start(perform)
    done = client.chat.completions.create(model="org/chat", messages=HI, logprobs=True, **given)  # type: ignore[arg-type]
    assert asked == [alternatives]
    told = done.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert told.refusal is None
    assert b"".join(bytes(one.bytes or ()) for one in told.content) == " é".encode()
    assert [one.logprob for one in told.content] == [-0.5] * len(tokens)
    assert {len(one.top_logprobs) for one in told.content} == {alternatives}


def test_a_base_model_says_that_it_cannot_read_messages(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="without a chat template") as refused:
        client.chat.completions.create(model="starter", messages=HI)  # type: ignore[arg-type]
    assert (refused.value.param, refused.value.code) == ("model", "no_chat_template")


def test_a_template_that_refuses_is_quoted(
    caller: Caller, offered: Database, settings: Settings, tokenizer: Tokenizer
) -> None:
    artifact = ArtifactStore(settings.artifacts).put(tokenizer.to_str().encode())
    picky = _version("picky", artifact, "{{ raise_exception('Conversation roles must alternate') }}")
    with offered.transaction() as connection:
        catalog.offer(connection, "another", [picky], {})
    caller._client.application.extensions["penstock"].offers._known = {}, 0.0
    error = the_error(caller.post(CHAT, model="picky", messages=HI), 400, "invalid_value")
    assert error["param"] == "messages"
    assert "refused these messages: Conversation roles must alternate." in error["message"]


def test_a_failed_chat_completion_is_an_error(caller: Caller, worker: FakeWorker) -> None:
    worker.start(lambda job: NumericalError("The logits were not finite."))
    answer = caller.post(CHAT, model="org/chat", messages=HI)
    assert "not finite" in the_error(answer, 500, "numerical_error")["message"]
