"""Completions and chat through the official client, whole and streamed, to the end or until nobody reads."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from openai import APITimeoutError, OpenAI
from sqlalchemy import select

from jobs.database import Database
from jobs.states import State
from jobs.tables import jobs
from tests.conftest import wait_for
from tests.end_to_end.conftest import RunningStack

LONG = {
    "max_tokens": 500,
    "n": 100,
    "extra_body": {"ignore_eos": True},
}  # far more than 8 slots do in a second


@pytest.fixture
def client(stack: RunningStack) -> Iterator[OpenAI]:
    """The client, which refuses every object that is not exactly as documented."""
    address = f"{stack.url}/v1"
    with OpenAI(
        base_url=address, api_key=stack.key, max_retries=0, timeout=60, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def lenient(stack: RunningStack) -> Iterator[OpenAI]:
    """In strict mode it refuses the chunks of a completion, those of OpenAI too."""
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0, timeout=60) as client:
        yield client


def added_up(chunks: Iterable[Any]) -> list[dict[str, Any]]:
    """The choices of a streamed completion, as a whole one has them."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        (choice,) = chunk.to_dict()["choices"]
        whole = choices.setdefault(choice["index"], choice | {"text": ""})
        whole["text"] += choice["text"]
        whole["finish_reason"] = choice["finish_reason"]
        if choice["logprobs"] and whole["logprobs"] is not choice["logprobs"]:
            for name, values in choice["logprobs"].items():
                whole["logprobs"][name] += values
    return [choices[index] for index in sorted(choices)]


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 3, "max_tokens": 60, "temperature": 1.5},
        {"max_tokens": 40, "logprobs": 2, "temperature": 1.2},
        {"n": 2, "max_tokens": 60, "stop": ["e", " ("], "logprobs": 0},
        {"echo": True, "max_tokens": 9},
        {"echo": True, "max_tokens": 9, "logprobs": 1},
        {"echo": True, "max_tokens": 0, "logprobs": 1},
    ],
    ids=str,
)
def test_a_streamed_completion_says_what_a_whole_one_says(lenient: OpenAI, asked: dict[str, Any]) -> None:
    given: dict[str, Any] = {"model": "starter", "prompt": ["\ndef né(", [5, 6, 7]], "seed": 4} | asked
    whole = lenient.completions.create(**given).to_dict()["choices"]
    chunks = list(lenient.completions.create(**given, stream=True))
    assert added_up(chunks) == whole
    if asked["max_tokens"] > 9 and "stop" not in asked:
        assert len(chunks) > asked["max_tokens"]  # a token each, but for parts of characters


def test_a_chat_completion_streamed_and_whole(client: OpenAI) -> None:
    asked: Any = {
        "model": "chatty",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def é"}],
        "n": 2,
        "seed": 3,
        "max_completion_tokens": 30,
        "logprobs": True,
        "top_logprobs": 1,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == sum(len(c.logprobs.content) for c in whole.choices)  # type: ignore[union-attr, arg-type, misc]
    texts, told, usage = {0: "", 1: ""}, {0: [], 1: []}, None  # type: ignore[var-annotated]
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            told[choice.index] += choice.logprobs.content or [] if choice.logprobs else []
        usage = chunk.usage or usage
    assert texts == {c.index: c.message.content for c in whole.choices}
    assert told == {c.index: c.logprobs.content for c in whole.choices}  # type: ignore[union-attr]
    assert usage is not None
    assert usage.total_tokens == whole.usage.total_tokens


def test_a_prompt_is_scored_without_a_word_being_said(lenient: OpenAI) -> None:
    asked: Any = {"model": "starter", "prompt": "\nimport os\n", "echo": True, "logprobs": 1}
    scored = lenient.completions.create(**asked, max_tokens=0)
    told = lenient.completions.create(**asked, max_tokens=1, temperature=0)
    assert (scored.choices[0].text, scored.choices[0].finish_reason) == ("\nimport os\n", "length")
    assert scored.usage is not None
    assert (scored.usage.completion_tokens, scored.usage.total_tokens) == (0, scored.usage.prompt_tokens)
    alone, together = scored.choices[0].logprobs, told.choices[0].logprobs
    assert alone is not None
    assert together is not None
    assert alone.token_logprobs == (together.token_logprobs or [])[:-1]
    filled = lenient.completions.create(
        model="starter", prompt=list(range(1, 513)), max_tokens=0, echo=True, logprobs=0
    )
    assert len(filled.choices[0].logprobs.token_logprobs or []) == 512  # type: ignore[union-attr]


def test_a_call_whose_client_goes_away_is_cancelled_and_its_slots_are_free(
    stack: RunningStack, lenient: OpenAI
) -> None:
    with pytest.raises(APITimeoutError):
        lenient.with_options(timeout=0.5).completions.create(model="starter", prompt="a", **LONG)  # type: ignore[call-overload]
    _cancelled(stack, "completion")
    lenient.with_options(timeout=10).completions.create(model="starter", prompt="a", n=8)


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_a_stream_that_is_closed_is_cancelled_with_what_it_had_said(
    stack: RunningStack, lenient: OpenAI, kind: str
) -> None:
    if kind == "chat":
        chat: Any = {"model": "chatty", "messages": [{"role": "user", "content": "a"}]}
        stream: Any = lenient.chat.completions.create(**chat, **LONG | {"max_tokens": 400}, stream=True)
    else:
        stream = lenient.completions.create(model="starter", prompt="a", **LONG, stream=True)  # type: ignore[call-overload]
    with stream:
        for chunk in stream:
            (choice,) = chunk.choices
            if choice.delta.content if kind == "chat" else choice.text:
                break  # heard while the job runs
    row = _cancelled(stack, kind)
    assert 0 < row.output["output_tokens"] < 100 * 400


def _cancelled(stack: RunningStack, kind: str) -> Any:
    """The newest job of a kind, once it has been cancelled."""
    database = Database(stack.settings.database, connections=1)

    def look() -> Any:
        newest = select(jobs).where(jobs.c.kind == kind).order_by(jobs.c.seq.desc()).limit(1)
        with database.transaction() as connection:
            row = connection.execute(newest).one()
        return row if row.state == State.CANCELLED else None

    try:
        return wait_for(look, seconds=10)
    finally:
        database.close()
