"""Requests that Schemathesis draws from the OpenAPI document, good ones and bad ones, against every route."""

import copy
import os
from functools import partial
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
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
from sqlalchemy import select
from tokenizers import Tokenizer

from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.inputs import GenerationInput
from jobs.tables import model_versions
from tests.web.conftest import Caller, FakeWorker, output
from tests.web.things import known
from web.document import document
from web.operations import OPERATIONS
from web.query import Query

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "20"))
"""Of each operation and each kind; `make schemathesis` draws many more."""

CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
TEXT_ONLY = {"files.create", "fine_tuning.index"}
"""Forms and `metadata[name]` have no types: what is drawn as another may read as the right one."""


def perform(tokens: list[int], text: str, digests: dict[str, str], job: ClaimedJob) -> dict[str, Any]:
    """What a worker would have stored."""
    task = GenerationInput.model_validate(job.input)
    done = output(*[text] * (len(task.prompts) * task.n)) | {"model_digest": digests[job.model]}
    for sequence in done["sequences"]:
        sequence["tokens"] = tokens
        if task.sampling.logprobs is not None:
            sequence["logprobs"] = [{"token": one, "logprob": -0.5, "top": []} for one in tokens]
        if task.echo:
            sequence |= {"prompt_tokens": [1], "prompt_logprobs": [None]}
    return done


def leading_on(described: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """The document, with what there is where any text would do."""
    found: dict[str, Any] = copy.deepcopy(described)
    there = {
        "model": ["org/chat", "starter"],
        "input_file_id": [ids["file_id"], "file-none"],
        "training_file": [ids["training_file"], "file-none"],
        "url": ["https://host.invalid/", "http://127.0.0.1/"],
    }
    schemas = found["components"]["schemas"]
    for name, schema in schemas.items():
        if name.endswith(("Request", "Change")):
            properties = schema["properties"]
            properties |= {one: {"enum": there[one]} for one in there if one in properties}
    schemas["ChatRequest"]["properties"]["model"] = {"const": "org/chat"}  # it has a chat template
    return found


@pytest.fixture
def ids(caller: Caller) -> dict[str, str]:
    return known(caller)


@pytest.fixture
def calls(
    app: Flask, ids: dict[str, str], worker: FakeWorker, tokenizer: Tokenizer, offered: Database
) -> dict[str, Any]:
    """Every operation of the document by its name, ready to be called."""
    with offered.transaction() as connection:
        rows = connection.execute(select(model_versions.c.name, model_versions.c.digest))
        digests = {row.name: row.digest for row in rows}
    worker.start(partial(perform, tokenizer.encode(" name").ids, " name", digests))
    keyed = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
    schema = schemathesis.openapi.from_dict(leading_on(document(app), ids), config=keyed)
    schema.app = app
    operations = [result.ok() for result in schema.get_all_operations()]
    return {operation.definition.raw["operationId"]: operation for operation in operations}


BOUNDS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="SCHEMATHESIS_EXAMPLES" not in os.environ,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_of_something_that_is_there_is_answered_as_documented(
    calls: dict[str, Any], ids: dict[str, str], key: str, name: str
) -> None:
    there = {one.name: ids[one.name] for one in calls[name].path_parameters}

    @BOUNDS
    @given(case=calls[name].as_strategy(path_parameters=there))
    def draw(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=CHECKED)

    draw()


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_not_as_documented_is_refused_as_documented(
    calls: dict[str, Any], key: str, name: str
) -> None:
    takes = OPERATIONS[name].query is not Query or OPERATIONS[name].body is not None
    mode = GenerationMode.NEGATIVE if takes else GenerationMode.POSITIVE  # then only the id is of nothing
    checked = CHECKED if name in TEXT_ONLY else [*CHECKED, negative_data_rejection]

    @BOUNDS
    @given(case=calls[name].as_strategy(generation_mode=mode))
    def draw(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=checked)

    draw()
