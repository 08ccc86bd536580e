"""The client's exceptions: each with the error object that it shows."""

from typing import Any

from openai import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)

from tests.conformance.scenarios.registry import Server, raising, refused, scenario

RESPONSE: Any = {"model": "starter", "input": "a", "max_output_tokens": 1, "background": True}


@scenario
def a_bad_request_names_its_parameter(server: Server) -> None:
    with refused(BadRequestError, "decimal_above_max_value", "temperature"):
        server.strict.responses.create(**RESPONSE, temperature=3)
    with refused(BadRequestError, "unknown_parameter", "temprature"):
        server.strict.responses.create(**RESPONSE, extra_body={"temprature": 1})
    with refused(BadRequestError, "context_length_exceeded", "prompt"):
        server.strict.completions.create(model="starter", prompt="a b c d " * 1000)


@scenario
def a_key_that_is_none_and_one_that_does_not_allow_it(server: Server) -> None:
    with refused(AuthenticationError, "invalid_api_key", None):
        server.client(key="sk-wrong").models.list()
    with refused(PermissionDeniedError, None, None):
        server.client(key=server.keys["trains"]).responses.create(**RESPONSE)


@scenario
def what_is_not_there_is_not_found(server: Server) -> None:
    with refused(NotFoundError, "model_not_found", "model"):
        server.strict.responses.create(**RESPONSE | {"model": "gpt-9"})
    with refused(NotFoundError, "unknown_url", None):
        server.strict.embeddings.create(model="starter", input="a")


@scenario
def what_is_somebody_else_s_is_not_there(server: Server) -> None:
    mine = server.strict.responses.create(**RESPONSE)
    with refused(NotFoundError, None, "id"):
        server.client(key=server.keys["stranger"]).responses.retrieve(mine.id)


@scenario
def a_conflict(server: Server) -> None:
    jobs = server.strict.fine_tuning.jobs
    line = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    file = server.strict.files.create(file=("train.jsonl", line * 20), purpose="fine-tune")
    job = jobs.create(model="starter", training_file=file.id)
    jobs.pause(job.id)
    with refused(ConflictError, "file_in_use", "id"):
        server.client(max_retries=2).files.delete(file.id)  # x-should-retry: false
    jobs.cancel(job.id)


@scenario
def an_idempotency_key_with_another_body(server: Server) -> None:
    once = {"Idempotency-Key": "conformance"}
    first = server.strict.responses.create(**RESPONSE, extra_headers=once)
    assert server.strict.responses.create(**RESPONSE, extra_headers=once).id == first.id
    with refused(UnprocessableEntityError, "idempotency_key_reused", None):
        server.strict.responses.create(**RESPONSE | {"input": "b"}, extra_headers=once)


@scenario
def a_limit_is_reached_and_says_when_to_come_back(server: Server) -> None:
    slow = server.client(key=server.keys["slow"])
    raw = slow.models.with_raw_response.list()
    assert (raw.headers["x-ratelimit-limit-requests"], raw.headers["x-ratelimit-remaining-requests"]) == (
        "2",
        "1",
    )
    slow.models.list()
    with raising(RateLimitError) as caught:
        slow.models.list()
    assert caught[0].code == "rate_limit_exceeded"
    assert 1 <= int(caught[0].response.headers["retry-after"]) <= 60


@scenario
def what_cannot_be_had_now_is_the_server_s_fault(server: Server) -> None:
    with refused(InternalServerError, "model_loading", "model"):
        server.strict.responses.create(**RESPONSE | {"model": "soon"})


@scenario
def a_client_that_waits_no_longer_and_a_server_that_is_not_there(server: Server) -> None:
    asked: Any = {"model": "starter", "prompt": "a", "max_tokens": 480, "n": 64}
    with raising(APITimeoutError):
        server.client(timeout=0.2).completions.create(**asked, extra_body={"ignore_eos": True})
    with raising(APIConnectionError):
        server.client(url="http://127.0.0.1:9").models.list()
