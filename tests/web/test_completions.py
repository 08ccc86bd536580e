"""Completions: every form of a prompt, several texts, and what becomes of a job that fails."""

from typing import Any

import pytest

from jobs.attempts import ClaimedJob
from jobs.errors import InvalidPrompt, JobError, ModelUnavailable, NumericalError
from tests.web.conftest import WRITER, Caller, FakeWorker, output, the_error


class Echo:
    """A model that answers every sequence with its number, and remembers what it was asked."""

    asked: dict[str, Any]

    def __call__(self, job: ClaimedJob) -> dict[str, Any]:
        self.asked = job.input
        count = len(job.input["prompts"]) * job.input["n"]
        return output(*(f"text {i}" for i in range(count)), finish="length", prompt_tokens=count)


@pytest.fixture
def echo(worker: FakeWorker) -> Echo:
    model = Echo()
    worker.start(model)
    return model


def test_a_completion_waits_and_leaves_nothing_to_be_seen(caller: Caller, echo: Echo) -> None:
    answer = caller.post("/v1/completions", model="starter", prompt="def")
    body = answer.get_json()
    assert answer.status_code == 200
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"]) == ("text_completion", "starter")
    choice = {"index": 0, "text": "text 0", "finish_reason": "length", "logprobs": None}
    assert body["choices"] == [choice]
    counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert body["usage"].items() >= counts.items()
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert body["system_fingerprint"] == f"fp_{WRITER[:12]}"  # not of what is offered by now
    assert echo.asked["sampling"]["max_tokens"] == 16
    assert caller.get("/v1/responses").get_json()["data"] == []


@pytest.mark.parametrize(
    ("sent", "prompts"),
    [
        ({"prompt": "a"}, ["a"]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"prompt": [5, 6]}, [[5, 6]]),
        ({"prompt": [[5], [6, 7]]}, [[5], [6, 7]]),
        ({}, [[0]]),
        ({"prompt": None}, [[0]]),
    ],
)
def test_every_form_of_a_prompt(caller: Caller, echo: Echo, sent: dict[str, Any], prompts: list[Any]) -> None:
    answer = caller.post("/v1/completions", model="starter", n=2, **sent)
    assert echo.asked["prompts"] == prompts
    assert [choice["index"] for choice in answer.get_json()["choices"]] == list(range(2 * len(prompts)))


def test_harmless_values_of_what_we_do_not_have_are_taken(caller: Caller, echo: Echo) -> None:
    nothing = {"best_of": None, "suffix": "", "logprobs": None, "stream_options": None}
    assert caller.post("/v1/completions", model="starter", prompt="a", **nothing).status_code == 200
    absent = dict.fromkeys([*nothing, "echo", "logit_bias"])
    assert caller.post("/v1/completions", model="starter", prompt="a", **absent).status_code == 200


def test_the_limit_leaves_room_for_the_longest_prompt(caller: Caller, echo: Echo) -> None:
    caller.post("/v1/completions", model="starter", prompt=[[1], [1] * 60])
    assert echo.asked["sampling"]["max_tokens"] == 4


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (InvalidPrompt("It does not fit."), 400, "invalid_prompt", None),
        (ModelUnavailable("The file is gone."), 503, "model_unavailable", None),
        (NumericalError("The logits were not finite."), 500, "numerical_error", "false"),
    ],
)
def test_a_failed_completion_is_an_error(
    caller: Caller, worker: FakeWorker, error: JobError, status: int, code: str, retry: str | None
) -> None:
    worker.start(lambda job: error)
    answer = caller.post("/v1/completions", model="starter", prompt="a")
    assert the_error(answer, status, code)["message"] == str(error)
    assert answer.headers.get("x-should-retry") == retry
    assert ("Retry-After" in answer.headers) == (status == 503)
