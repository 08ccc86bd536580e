"""Streamed responses, over real rows and a real Redis, with a worker that says what a test wants."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import redis
from flask import Flask
from tokenizers import Tokenizer
from werkzeug.test import TestResponse

from jobs import lifecycle, signals
from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.errors import NumericalError, WorkerStopping
from jobs.settings import Settings
from jobs.signals import SAID
from tests.conftest import wait_for
from tests.web.conftest import RECEIPT, WRITER, Caller, FakeWorker, opened, the_error
from web import streaming

TEXT = "def name(self): return 'é'"
OPENING = ["response.output_item.added", "response.content_part.added"]
CLOSING = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


class Speaker:
    """A worker whose every word is the test's."""

    def __init__(self, worker: FakeWorker, client: "redis.Redis", tokenizer: Tokenizer) -> None:
        self.worker, self._client = worker, client
        self.tokens: list[int] = tokenizer.encode(TEXT).ids
        self._tokenizer = tokenizer

    def claim(self) -> ClaimedJob:
        """The one job, once it is there."""
        (job,) = wait_for(self.worker.claim)
        return job

    def say(self, job: ClaimedJob, first: int, end: int, tokens: list[int] | None = None) -> None:
        """Some tokens, as the teller tells them."""
        said = (tokens or self.tokens)[first:end]
        shown = job.input["sampling"]["logprobs"] is not None
        fields = {"a": job.claim.attempt, "s": 0, "i": first, "t": json.dumps(said)}
        fields["l"] = json.dumps([self._logprob(token) for token in said]) if shown else ""
        self._client.xadd(signals.tokens_key(job.claim.job_id), fields)  # type: ignore[arg-type]
        self._client.publish(SAID, json.dumps([job.claim.job_id]))

    def output(self, finish: str = "stop", end: int | None = None, logprobs: bool = False) -> dict[str, Any]:
        """What is stored in the end."""
        tokens = self.tokens[:end]
        sequence: dict[str, Any] = {"text": self._tokenizer.decode(tokens), "tokens": tokens}
        sequence["finish_reason"] = finish
        if logprobs:
            sequence["logprobs"] = [self._logprob(token) for token in tokens]
        counts = {"prompt_tokens": 3, "output_tokens": len(tokens)}
        return {"sequences": [sequence], **counts, "model_digest": WRITER, "receipt": RECEIPT}

    @staticmethod
    def _logprob(token: int) -> dict[str, Any]:
        return {"token": token, "logprob": -0.5, "top": [[token, -0.5], [1, -2.0]]}


@pytest.fixture
def speaker(worker: FakeWorker, settings: Settings, tokenizer: Tokenizer) -> Iterator[Speaker]:
    with redis.Redis.from_url(settings.redis) as client:
        yield Speaker(worker, client, tokenizer)


class Reading(threading.Thread):
    """A client that reads a whole stream."""

    def __init__(self, caller: Caller, path: str = "", **body: Any) -> None:
        super().__init__()
        self._caller, self._path, self._body = caller, path, body
        self.answer: TestResponse | None = None
        self.start()

    def run(self) -> None:
        if self._path:
            self.answer = self._caller.get(self._path)
        else:
            asked = {"model": "starter", "input": "x", "stream": True} | self._body
            self.answer = self._caller.post("/v1/responses", **asked)
        self.answer.get_data()

    def text(self) -> str:
        """All of it, once it has ended."""
        self.join(timeout=20)
        assert self.answer is not None
        assert self.answer.status_code == 200, self.answer.text
        assert self.answer.mimetype == "text/event-stream"
        return self.answer.text


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each well formed."""
    found = []
    for frame in text.removesuffix("\n\n").split("\n\n") if text else []:
        if frame.startswith(":"):
            continue
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def resumed(caller: Caller, job_id: str, after: int) -> str:
    return caller.get(f"/v1/responses/{job_id}?stream=true&starting_after={after}").text


def kinds(text: str) -> list[str]:
    """The types of the events, those of the text once."""
    found = [event["type"] for event in events(text)]
    return [kind for place, kind in enumerate(found) if kind not in found[:place]]


def text_of(stream: str) -> str:
    deltas = [event for event in events(stream) if event["type"] == "response.output_text.delta"]
    return "".join(event["delta"] for event in deltas)


def test_a_synchronous_stream_has_the_events_of_openai(caller: Caller, speaker: Speaker) -> None:
    reading = Reading(caller)
    job = speaker.claim()
    assert job.input["stream"] is True
    speaker.say(job, 0, 4)
    speaker.worker.settle(job, speaker.output())
    found = events(stream := reading.text())
    assert reading.answer is not None
    assert reading.answer.headers["Cache-Control"] == "no-cache"
    assert reading.answer.headers["X-Accel-Buffering"] == "no"
    assert kinds(stream) == [
        *("response.created", "response.in_progress", *OPENING, "response.output_text.delta", *CLOSING),
        "response.completed",
    ]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert text_of(stream) == TEXT
    assert found[0]["response"]["status"] == "in_progress"
    end = found[-1]["response"]
    assert end == caller.get(f"/v1/responses/{end['id']}").get_json()
    assert end["output"][0]["content"][0]["text"] == TEXT
    assert found[-2]["item"] == end["output"][0]


def test_a_background_stream_is_the_same_from_every_event_on_live_or_later(
    caller: Caller, speaker: Speaker, settings: Settings
) -> None:
    reading = Reading(caller, background=True)
    job = speaker.claim()
    speaker.say(job, 0, 2)
    path = f"/v1/responses/{job.claim.job_id}?stream=true"
    others = [Reading(caller, path), Reading(caller, f"{path}&starting_after=5")]
    speaker.say(job, 2, 5)
    speaker.worker.settle(job, speaker.output("length"))
    whole = reading.text()
    assert kinds(whole)[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds(whole)[-1] == "response.incomplete"
    frames = [f"{frame}\n\n" for frame in whole.removesuffix("\n\n").split("\n\n")]
    assert [other.text() for other in others] == [whole, "".join(frames[6:])]
    with redis.Redis.from_url(settings.redis) as client:
        client.flushall()
    for number in range(len(frames) + 1):
        assert resumed(caller, job.claim.job_id, number) == "".join(frames[number + 1 :])
    assert resumed(caller, job.claim.job_id, 1_000_000) == ""


def test_log_probabilities_come_with_their_text(caller: Caller, speaker: Speaker) -> None:
    reading = Reading(caller, top_logprobs=2)
    job = speaker.claim()
    speaker.say(job, 0, 3)
    speaker.worker.settle(job, speaker.output(logprobs=True))
    found = events(reading.text())
    shown = found[-1]["response"]["output"][0]["content"][0]["logprobs"]
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert [one for event in deltas for one in event["logprobs"]] == shown
    assert len(shown) == len(speaker.tokens) > len(deltas)  # a character of two tokens


def test_a_reader_does_not_notice_that_the_worker_died(caller: Caller, speaker: Speaker) -> None:
    reading = Reading(caller, background=True)
    first = speaker.claim()
    speaker.say(first, 0, 6)
    speaker.worker.settle(first, WorkerStopping("The worker stopped."))
    again = speaker.claim()
    assert again.claim.attempt == 2
    speaker.say(again, 0, 8)
    speaker.worker.settle(again, speaker.output())
    whole = reading.text()
    assert text_of(whole) == TEXT
    assert Reading(caller, f"/v1/responses/{first.claim.job_id}?stream=true").text() == whole


def test_a_new_attempt_that_says_something_else_ends_the_stream_with_an_error(
    caller: Caller, speaker: Speaker
) -> None:
    answer = caller.post("/v1/responses", model="starter", input="x", stream=True, background=True)
    first = speaker.claim()
    speaker.say(first, 0, 3, tokens=speaker.tokens[::-1])
    chunks = answer.iter_encoded()
    read = b""
    while b"output_text.delta" not in read:
        read += next(chunks)
    speaker.worker.settle(first, WorkerStopping("The worker stopped."))
    again = speaker.claim()
    speaker.say(again, 0, 3)
    found = events((read + b"".join(chunks)).decode())
    answer.close()
    assert found[-1]["type"] == "error"
    assert found[-1]["code"] == "stream_changed"
    assert found[-1]["sequence_number"] == len(found) - 1
    speaker.worker.settle(again, speaker.output())
    assert text_of(resumed(caller, first.claim.job_id, 0)) == TEXT


def test_a_text_that_its_tokens_do_not_say_ends_its_stream_with_an_error(
    caller: Caller, speaker: Speaker
) -> None:
    made = caller.post("/v1/responses", model="starter", input="x", background=True).get_json()
    output = speaker.output()
    output["sequences"][0]["text"] = "something else"
    speaker.worker.settle(speaker.claim(), output)
    found = events(caller.get(f"/v1/responses/{made['id']}?stream=true").text)
    assert (found[-1]["type"], found[-1]["code"]) == ("error", "stream_changed")


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_response_ends_with_its_error(caller: Caller, speaker: Speaker, background: bool) -> None:
    reading = Reading(caller, background=background)
    job = speaker.claim()
    speaker.say(job, 0, 3)
    speaker.worker.settle(job, NumericalError("The logits were not finite."))
    whole = reading.text()
    end = events(whole)[-1]
    assert end["type"] == "response.failed"
    assert end["response"]["error"]["message"] == "The logits were not finite."
    assert resumed(caller, job.claim.job_id, end["sequence_number"] - 1).count("response.failed") == 2


def test_a_cancelled_response_ends_as_incomplete_with_its_own_status(
    caller: Caller, speaker: Speaker
) -> None:
    reading = Reading(caller, background=True)
    job = speaker.claim()
    speaker.say(job, 0, 3)
    canceller = threading.Thread(target=caller.post, args=(f"/v1/responses/{job.claim.job_id}/cancel",))
    canceller.start()
    wait_for(lambda: caller.get(f"/v1/responses/{job.claim.job_id}").get_json()["status"] == "in_progress")
    wait_for(lambda: _is_unwanted(speaker, job))
    speaker.worker.settle(job, speaker.output(end=5))
    canceller.join()
    whole = reading.text()
    end = events(whole)[-1]
    assert end["type"] == "response.incomplete"
    assert end["response"]["status"] == "cancelled"
    assert text_of(whole) == end["response"]["output"][0]["content"][0]["text"] != ""
    assert resumed(caller, job.claim.job_id, 4) == "".join(
        f"{frame}\n\n" for frame in whole.removesuffix("\n\n").split("\n\n")[5:]
    )


def _is_unwanted(speaker: Speaker, job: ClaimedJob) -> bool:
    with speaker.worker._database.transaction() as connection:
        return job.claim in lifecycle.unwanted(connection, [job.claim])


def test_one_that_is_cancelled_while_it_waits_ends_at_once(caller: Caller, speaker: Speaker) -> None:
    reading = Reading(caller, background=True)
    job_id = wait_for(lambda: caller.get("/v1/responses").get_json()["data"])[0]["id"]
    caller.post(f"/v1/responses/{job_id}/cancel")
    assert kinds(reading.text()) == ["response.created", "response.queued", "response.incomplete"]


def test_a_client_that_goes_away_cancels_a_synchronous_response_only(
    app: Flask, caller: Caller, speaker: Speaker
) -> None:
    for background, status in ((False, "cancelled"), (True, "queued")):
        asked = {"model": "starter", "input": "x", "stream": True, "background": background}
        answer = caller.post("/v1/responses", **asked)
        job_id = caller.get("/v1/responses?limit=1").get_json()["data"][0]["id"]
        answer.close()
        assert caller.get(f"/v1/responses/{job_id}").get_json()["status"] == status


def test_without_redis_a_stream_shows_its_text_at_the_end(
    settings: Settings, offered: Database, key: str, speaker: Speaker
) -> None:
    with opened(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as deaf:
        caller = Caller(deaf, key)
        reading = Reading(caller, background=True)
        job = speaker.claim()
        speaker.say(job, 0, 4)
        speaker.worker.settle(job, speaker.output())
        whole = reading.text()
        assert text_of(whole) == TEXT
        assert Reading(caller, f"/v1/responses/{job.claim.job_id}?stream=true").text() == whole


def test_silence_is_filled_with_comments(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEPALIVE_SECONDS", 0.02)
    answer = caller.post("/v1/responses", model="starter", input="x", stream=True)
    chunks = answer.iter_encoded()
    assert b"response.created" in next(chunks)
    assert next(chunks) == b": keepalive\n\n"
    answer.close()


def test_a_stream_needs_a_place(settings: Settings, offered: Database, key: str) -> None:
    with opened(settings.model_copy(update={"web_connections": 1})) as narrow:
        caller = Caller(narrow, key)
        body = {"model": "starter", "input": "x", "stream": True, "background": True}
        first = caller.post("/v1/responses", **body)
        the_error(caller.post("/v1/responses", **body), 503, "too_many_waiting")
        first.close()
        second = caller.post("/v1/responses", **body)
        assert second.status_code == 200
        second.close()


def test_a_stream_of_somebody_else_is_not_there(caller: Caller, stranger: Caller) -> None:
    job = caller.post("/v1/responses", model="starter", input="x", background=True).get_json()
    the_error(stranger.get(f"/v1/responses/{job['id']}?stream=true"), 404, None)


def test_the_strict_client_reads_every_kind_of_stream(address: str, key: str, speaker: Speaker) -> None:
    client = openai.OpenAI(
        base_url=f"{address}/v1", api_key=key, max_retries=0, _strict_response_validation=True
    )
    speaker.worker.start(lambda job: speaker.output(logprobs=True))
    given: dict[str, Any] = {"model": "starter", "input": "x"}
    for extra in ({}, {"background": True}, {"top_logprobs": 2}):
        found = list(client.responses.create(**given, stream=True, **extra))
        assert found[-1].type == "response.completed"
        assert found[-1].response.output_text == TEXT
    later = list(client.responses.retrieve(found[-1].response.id, stream=True, starting_after=3))
    assert later == found[4:]
    with client.responses.stream(**given, background=True) as helper:
        assert [event.type for event in helper][:2] == ["response.created", "response.queued"]
        assert helper.get_final_response().output_text == TEXT
