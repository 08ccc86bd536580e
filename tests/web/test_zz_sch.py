"""Requests that Schemathesis draws from the OpenAPI document, good ones and bad ones, against every route."""

import copy
import os
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from jobs.attempts import ClaimedJob
from jobs.inputs import GenerationInput
from tests.web.conftest import Caller, FakeWorker, output
from web.document import document
from web.operations import OPERATIONS

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))
"""Of each operation and each kind; `make schemathesis` draws many more."""

CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


def perform(job: ClaimedJob) -> dict[str, Any]:
    """What a worker would have stored."""
    task = GenerationInput.model_validate(job.input)
    texts = [" name"] * (len(task.prompts) * task.n)
    done = output(*texts)
    for sequence in done["sequences"]:
        told = {"token": 1, "logprob": -0.5, "top": [[1, -0.5]]}
        if task.sampling.logprobs is not None:
            sequence["logprobs"] = [told] * 2
        if task.echo:
            sequence |= {"prompt_tokens": [1], "prompt_logprobs": [None]}
    return done


def known(caller: Caller) -> dict[str, str]:
    """One of each thing that has an id, by the name that its id has in URLs."""
    response = caller.post("/v1/responses", model="starter", input="def", background=True)
    line = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    files = {purpose: upload(caller, purpose, line) for purpose in ("batch", "fine-tune")}
    batch = caller.post(
        "/v1/batches", input_file_id=files["batch"], endpoint="/v1/responses", completion_window="24h"
    )
    job = caller.post("/v1/fine_tuning/jobs", model="starter", training_file=files["fine-tune"])
    hook = {"name": "a", "url": "https://host.invalid/", "event_types": ["batch.completed"]}
    made = {
        "response_id": response,
        "batch_id": batch,
        "job_id": job,
        "endpoint_id": caller.post("/v1/webhook_endpoints", **hook),
    }
    assert {answer.status_code for answer in made.values()} == {200}
    ids = {name: str(answer.get_json()["id"]) for name, answer in made.items()}
    return ids | {"file_id": files["batch"], "model": "starter"}


def upload(caller: Caller, purpose: str, content: bytes) -> str:
    """The id of a new file."""
    data, kind = multipart({"purpose": purpose}, content)
    answer = caller.send("POST", "/v1/files", data=data, Content_Type=kind)
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["id"])


def multipart(fields: dict[str, str], content: bytes) -> tuple[bytes, str]:
    """A form as clients send it, and its content type."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    return b"".join([*parts, head, content, b"\r\n--x--\r\n"]), "multipart/form-data; boundary=x"


def leading_on(described: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The document, with names that there are where any text would do."""
    found: dict[str, Any] = copy.deepcopy(described)
    for schema in found["components"]["schemas"].values():
        if schema["title"].endswith("Request") and "model" in schema["properties"]:
            schema["properties"]["model"] = {"enum": ["starter", "org/chat", "gpt-9"]}
        for name in ("input_file_id", "training_file"):
            if name in schema["properties"] and schema["title"].endswith("Request"):
                schema["properties"][name] = {"anyOf": [{"const": ids["file_id"]}, {"type": "string"}]}
    for path in found["paths"].values():
        for parameter in [one for method in path.values() for one in method["parameters"]]:
            if parameter["in"] == "path":
                parameter["schema"] = {"anyOf": [{"const": ids[parameter["name"]]}, parameter["schema"]]}
    return found


@pytest.fixture
def calls(app: Flask, caller: Caller, worker: FakeWorker) -> dict[str, Any]:
    """Every operation of the document by its name, ready to be called."""
    worker.start(perform)
    schema = schemathesis.openapi.from_dict(leading_on(document(app), known(caller)))
    schema.app = app
    operations = [result.ok() for result in schema.get_all_operations()]
    return {operation.definition.raw["operationId"]: operation for operation in operations}


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_is_as_documented_and_none_is_a_crash(
    calls: dict[str, Any], key: str, name: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="SCHEMATHESIS_EXAMPLES" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=calls[name].as_strategy(generation_mode=mode))
    def draw(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=CHECKED)
        open("/tmp/try/statuses","a").write(f"{name} {mode} {answer.status_code}\n")

    try:
        draw()
    except Unsatisfiable:  # nothing can be wrong with a call that takes nothing
        assert mode is GenerationMode.NEGATIVE
