"""The chunks of a stream add up to the answer that does not stream, however the tokens came."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, OpenAI, Stream
from tokenizers import Tokenizer

from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob
from jobs.errors import NumericalError
from jobs.inputs import GenerationInput
from jobs.records import JobRecord
from jobs.states import State
from tests.web.conftest import Caller, FakeWorker, output, rows, the_error
from web.chat_object import chat_object
from web.chunks import ChatChunks, Chunks, CompletionChunks
from web.completion_object import completion_object
from web.deltas import Deltas
from web.following import Entry
from web.prompts import Tokenizers
from web.reader import Reader

TEXT = "def é(self, 😀): return 'naïve — 値'  # €€ end"


@dataclass
class OneModel:
    """A catalog of one model, whose tokenizer is the artifact `name`."""

    name: str
    tokenizers: Tokenizers

    @property
    def offers(self) -> Any:
        return self

    def reads(self, name: str) -> str:
        return self.name

    def tokenizer(self, name: str, digest: str) -> str:
        return self.name


@pytest.fixture
def models(tmp_path: Path, tokenizer: Tokenizer) -> Any:
    store = ArtifactStore(str(tmp_path))
    return OneModel(store.put(tokenizer.to_str().encode()), Tokenizers(store))


def said(tokenizer: Tokenizer, task: GenerationInput, choose: random.Random) -> dict[str, Any]:
    """What a worker would store: pieces of a text in many scripts, some cut at a stop string."""
    sequences = []
    for index in range(len(task.prompts) * task.n):
        tokens = tokenizer.encode(TEXT).ids[choose.randrange(9) :][: choose.randrange(40)]
        tokens = tokens[: task.sampling.max_tokens]
        ends = choose.random() < 0.3 and bool(task.sampling.max_tokens)
        tokens = [*tokens, 0] if ends else tokens
        text = tokenizer.decode(tokens[:-1] if ends else tokens)
        for place in range(len(tokens) + 1):  # it ends with the token that completes a stop string
            heard = tokenizer.decode(tokens[:place])
            if any(stop in heard for stop in task.sampling.stop):
                tokens = tokens[:place]
                text = heard[: min(heard.find(stop) for stop in task.sampling.stop if stop in heard)]
                break
        prompt = task.prompts[index // task.n]
        read = list(prompt) if not isinstance(prompt, str) else tokenizer.encode(prompt).ids
        sequence: dict[str, Any] = {
            "text": text,
            "tokens": tokens,
            "finish_reason": choose.choice(["stop", "length"]),
        }
        if task.echo:
            sequence["prompt_tokens"] = read
        if task.sampling.logprobs is not None:
            sequence["logprobs"] = [scored(token) for token in tokens]
            if task.echo:
                sequence["prompt_logprobs"] = [None, *(scored(token) for token in read[1:])]
        sequences.append(sequence)
    counts = {"prompt_tokens": 7, "output_tokens": 9, "cached_tokens": 2}
    return {"sequences": sequences, **counts, "model_digest": "d" * 64}


def scored(token: int) -> dict[str, Any]:
    return {"token": token, "logprob": -token / 8, "top": [[token, -token / 8], [5, -9.0]]}


def record_of(task: GenerationInput, output: dict[str, Any] | None) -> JobRecord:
    now = datetime.now(UTC)
    return JobRecord(
        id="cmpl-1",
        kind="completion",
        model="starter",
        state=State.QUEUED if output is None else State.SUCCEEDED,
        attempt=1,
        stored=False,
        request={},
        input=task.model_dump(mode="json"),
        output=output,
        error=None,
        created_at=now,
        started_at=now,
        finished_at=now,
        cancel_requested_at=None,
        queue_position=None,
    )


def streamed(
    make: Callable[..., Chunks], models: Any, tokenizer: Tokenizer, record: JobRecord, entries: list[Entry]
) -> list[str]:
    """The frames of a job whose tokens came as `entries`, what is missing with the end."""
    frames = make(models, replace(record, state=State.QUEUED, output=None), True)
    reader = Reader(lambda: Deltas(tokenizer, record.input["sampling"]["stop"]))
    told = list(frames.begin())
    for entry in entries:
        told += [frame for delta in reader.hear([entry]) for frame in frames.say(delta)]
    told += [frame for delta in reader.close(record) for frame in frames.say(delta)]
    return [*told, *frames.end(record)]


def in_entries(record: JobRecord, choose: random.Random) -> Iterator[Entry]:
    """Tokens of all sequences in any order, a few at a time; some are lost on the way."""
    sequences = (record.output or {})["sequences"]
    places = [0] * len(sequences)
    while any(place < len(s["tokens"]) for place, s in zip(places, sequences, strict=True)):
        index = choose.randrange(len(sequences))
        start, end = places[index], places[index] + choose.randrange(1, 4)
        tokens, places[index] = sequences[index]["tokens"][start:end], end
        tokens = [token for token in tokens if token]  # the end-of-text is not told
        if tokens and choose.random() < 0.95:
            logprobs = sequences[index].get("logprobs")
            yield Entry(1, index, start, tokens, logprobs and logprobs[start : start + len(tokens)])


def objects(frames: list[str]) -> list[dict[str, Any]]:
    assert all(frame.startswith("data: ") and frame.endswith("\n\n") for frame in frames)
    assert frames[-1] == "data: [DONE]\n\n"
    return [json.loads(frame[6:]) for frame in frames[:-1]]


def added_up(chunks: list[dict[str, Any]], chat: bool) -> dict[str, Any]:
    """The whole answer, as a client puts it together."""
    *parts, last = chunks
    assert (last["choices"], {part["usage"] for part in parts}) == ([], {None})
    choices: dict[int, dict[str, Any]] = {}
    for part in parts:
        (choice,) = part["choices"]
        whole = choices.setdefault(choice["index"], {"text": "", "logprobs": None, "finish_reason": None})
        assert whole["finish_reason"] is None, "nothing comes after the end"
        whole["text"] += (choice["delta"].get("content") or "") if chat else choice["text"]
        whole["finish_reason"] = choice["finish_reason"]
        for name, values in (choice["logprobs"] or {}).items():
            if values is not None:
                whole["logprobs"] = whole["logprobs"] or {}
                whole["logprobs"].setdefault(name, []).extend(values)
    return {"choices": [choices[index] for index in sorted(choices)], "usage": last["usage"]}


def whole(answer: dict[str, Any], chat: bool) -> dict[str, Any]:
    """The same of an answer that was not streamed."""
    choices = []
    for choice in answer["choices"]:
        told = {name: values for name, values in (choice["logprobs"] or {}).items() if values}
        text = choice["message"]["content"] if chat else choice["text"]
        choices.append({"text": text, "logprobs": told or None, "finish_reason": choice["finish_reason"]})
    return {"choices": choices, "usage": answer["usage"]}


TASKS: list[dict[str, Any]] = [
    {},
    {"n": 3, "prompts": ["a", (5, 6, 7)]},
    {"n": 2, "sampling": {"stop": ["lf, 😀", "e —", "€€"]}},
    {"n": 2, "sampling": {"stop": ["return", "r"], "logprobs": 1}},
    {"n": 2, "sampling": {"logprobs": 0}},
]
ECHOED: list[dict[str, Any]] = [
    {"echo": True, "prompts": ["é", (5, 6, 7)]},
    {"echo": True, "prompts": ["é", (5, 6, 7)], "n": 2, "sampling": {"logprobs": 1}},
    {"echo": True, "prompts": ["def"], "n": 2, "sampling": {"logprobs": 0, "max_tokens": 0}},
]


@pytest.mark.parametrize("given", [*TASKS, *ECHOED], ids=str)
@pytest.mark.parametrize("chat", [False, True], ids=["completion", "chat"])
def test_chunks_add_up_to_the_whole_answer(
    models: Any, tokenizer: Tokenizer, given: dict[str, Any], chat: bool
) -> None:
    if chat and given in ECHOED:
        return
    choose = random.Random(str(given))
    sampling = {"max_tokens": 40, "seed": 1} | given.get("sampling", {})
    task = GenerationInput.model_validate({"prompts": ["a"]} | given | {"sampling": sampling})
    make, answer = (ChatChunks, chat_object) if chat else (CompletionChunks, completion_object)
    for _ in range(30):
        record = record_of(task, said(tokenizer, task, choose))
        expected = whole(answer(models, record), chat)
        at_once = streamed(make, models, tokenizer, record, [])
        live = streamed(make, models, tokenizer, record, list(in_entries(record, choose)))
        assert added_up(objects(at_once), chat) == expected
        assert added_up(objects(live), chat) == expected
        assert sorted(live) == sorted(at_once)  # of several sequences each has its own order


def test_each_certain_token_is_a_chunk_of_its_own(models: Any, tokenizer: Tokenizer) -> None:
    task = GenerationInput.model_validate({"prompts": ["a"], "sampling": {"max_tokens": 9, "seed": 1}})
    tokens = tokenizer.encode("def 😀!").ids
    sequence = {"text": "def 😀!", "tokens": tokens, "finish_reason": "length"}
    record = record_of(task, output() | {"sequences": [sequence]})
    chunks = objects(streamed(CompletionChunks, models, tokenizer, record, []))
    texts = [chunk["choices"][0]["text"] for chunk in chunks[:-1]]
    assert texts == ["def", " ", "😀", "!", ""]


def test_a_chat_stream_as_the_official_client_sees_it(
    address: str, key: str, worker: FakeWorker, tokenizer: Tokenizer
) -> None:
    worker.start(lambda job: _named(tokenizer, "hi é", "b"))
    with (
        OpenAI(
            base_url=f"{address}/v1", api_key=key, max_retries=0, _strict_response_validation=True
        ) as client,
        client.chat.completions.create(
            model="org/chat",
            messages=[{"role": "user", "content": "a"}],
            n=2,
            stream=True,
            stream_options={"include_usage": True, "include_obfuscation": False},
        ) as stream,
    ):
        chunks = list(stream)
    assert {(chunk.object, chunk.id) for chunk in chunks} == {("chat.completion.chunk", chunks[0].id)}
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert chunk.usage is None
    assert texts == {0: "hi é", 1: "b"}
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == ["stop"] * 2
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7


def _named(tokenizer: Tokenizer, *texts: str) -> dict[str, Any]:
    sequences = [{"text": t, "tokens": tokenizer.encode(t).ids, "finish_reason": "stop"} for t in texts]
    return output(*texts) | {"sequences": sequences}


def test_usage_is_told_only_where_it_is_asked_for(
    caller: Caller, worker: FakeWorker, tokenizer: Tokenizer
) -> None:
    worker.start(lambda job: _named(tokenizer, "x"))
    for options in ({}, {"stream_options": {}}, {"stream_options": {"include_usage": None}}):
        answer = caller.post("/v1/completions", model="starter", prompt="a", stream=True, **options)
        assert answer.mimetype == "text/event-stream"
        assert "usage" not in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/completions", "/chat/completions"])
def test_a_stream_whose_job_fails_ends_with_the_error(
    address: str, key: str, worker: FakeWorker, path: str
) -> None:
    worker.start(lambda job: NumericalError("The logits were not finite."))
    body = {"prompt": "a"} if path == "/completions" else {"messages": [{"role": "user", "content": "a"}]}
    with (
        OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(APIError, match="not finite") as failed,
    ):
        list(
            client.post(
                path,
                body={"model": "org/chat", "stream": True} | body,
                cast_to=object,
                stream=True,
                stream_cls=Stream[object],
            )
        )
    assert failed.value.code == "numerical_error"


def test_a_refused_stream_is_refused_as_any_other_request(caller: Caller, offered: Any) -> None:
    for body, param in (
        ({"num_beams": 2}, "num_beams"),
        ({"best_of": 3}, "best_of"),
        ({"max_tokens": 99}, "max_tokens"),
    ):
        answer = caller.post("/v1/completions", model="starter", prompt="a", stream=True, **body)
        assert the_error(answer, 400, answer.get_json()["error"]["code"])["param"] == param
    assert rows(offered) == 0


def test_a_stream_is_asked_of_the_worker(caller: Caller, worker: FakeWorker) -> None:
    asked: list[bool] = []

    def perform(job: ClaimedJob) -> dict[str, Any]:
        asked.append(job.input["stream"])
        return output("x")

    worker.start(perform)
    for stream in (True, False):
        caller.post("/v1/completions", model="starter", prompt="a", stream=stream)
    assert asked == [True, False]
