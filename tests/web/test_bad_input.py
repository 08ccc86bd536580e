"""What bad input gets: the OpenAI error object with the parameter and what to send instead, and no job."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import delete
from tokenizers import Tokenizer

from jobs.database import Database
from jobs.settings import Settings
from jobs.tables import jobs
from tests.web.conftest import Caller, issue, offer_models, rows, the_error

RESPONSES, COMPLETIONS, CHAT = "/v1/responses", "/v1/completions", "/v1/chat/completions"
NOT_YET = "unsupported_parameter"


class Case(NamedTuple):
    """Fields that spoil a good request, and what is said about them."""

    fields: dict[str, Any]
    param: str | None
    code: str
    words: str
    status: int = 400


BOTH = {
    "unknown field": Case({"foo": 1}, "foo", "unknown_parameter", "Leave it out"),
    "typing slip": Case({"temprature": 1}, "temprature", "unknown_parameter", "Did you mean 'temperature'?"),
    "no typing slip": Case({"tfs_z": 0.1}, "tfs_z", "unknown_parameter", "'tfs_z'. Leave it out."),
    "mass assignment": Case({"owner_id": 2}, "owner_id", "unknown_parameter", "Leave it out"),
    "no model": Case({"model": None}, "model", "missing_required_parameter", "'model'"),
    "unknown model": Case({"model": "gpt-9"}, "model", "model_not_found", "'org/chat', 'starter'", 404),
    "model that failed": Case({"model": "gpt2"}, "model", "model_not_found", "the Hub could not be", 404),
    "model of another type": Case({"model": 1}, "model", "invalid_type", "expected a string"),
    "empty model": Case({"model": ""}, "model", "empty_string", "at least one"),
    "NUL in the model": Case({"model": "a\0"}, "model", "invalid_value", "NUL"),
    "hot": Case({"temperature": 2.1}, "temperature", "decimal_above_max_value", "<= 2, but got 2.1"),
    "cold": Case({"temperature": -1}, "temperature", "decimal_below_min_value", ">= 0"),
    "temperature in words": Case({"temperature": "1"}, "temperature", "invalid_type", "got a string"),
    "true is no number": Case({"temperature": True}, "temperature", "invalid_type", "got a boolean"),
    "top_p of nothing": Case({"top_p": 0}, "top_p", "decimal_below_min_value", "> 0"),
    "top_p": Case({"top_p": 1.5}, "top_p", "decimal_above_max_value", "<= 1"),
    "top_k": Case({"top_k": -1}, "top_k", "integer_below_min_value", ">= 0"),
    "huge top_k": Case({"top_k": 10**30}, "top_k", "integer_above_max_value", "<="),
    "top_k in words": Case({"top_k": "5"}, "top_k", "invalid_type", "expected an integer, but got a string"),
    "half a top_k": Case({"top_k": 1.5}, "top_k", "invalid_type", "got a decimal number"),
    "negative seed": Case({"seed": -1}, "seed", "integer_below_min_value", ">= 0"),
    "huge seed": Case({"seed": 2**63}, "seed", "integer_above_max_value", str(2**63 - 1)),
    "seed of an object": Case({"seed": {}}, "seed", "invalid_type", "got an object"),
    "fewer than no tokens": Case({"max_tokens": -1}, "max_tokens", "integer_below_min_value", ">= "),
    "true tokens": Case({"max_tokens": True}, "max_tokens", "invalid_type", "got a boolean"),
    "too many tokens": Case({"max_tokens": 64}, "max_tokens", "context_length_exceeded", "Send at most"),
    "min over max": Case(
        {"max_tokens": 5, "min_tokens": 6}, "min_tokens", "integer_above_max_value", "at most 5"
    ),
    "min over the room": Case({"min_tokens": 99}, "min_tokens", "integer_above_max_value", "at most"),
    "ignore_eos": Case({"ignore_eos": 1}, "ignore_eos", "invalid_type", "expected a boolean"),
    "five stops": Case({"stop": list("abcde")}, "stop", "array_above_max_length", "at most 4"),
    "empty stop": Case({"stop": ""}, "stop[0]", "empty_string", "at least one"),
    "long stop": Case({"stop": ["x" * 257]}, "stop[0]", "string_above_max_length", "at most 256"),
    "stop of numbers": Case({"stop": [1]}, "stop[0]", "invalid_type", "expected a string"),
    "stop of an object": Case({"stop": {}}, "stop", "invalid_type", "expected an array"),
    "stream in words": Case({"stream": "yes"}, "stream", "invalid_type", "expected a boolean"),
    "bias of words": Case({"logit_bias": {"def": 5}}, "logit_bias", "invalid_value", "by token id"),
    "bias of no token": Case({"logit_bias": {"300": 5}}, "logit_bias", "invalid_value", "from 0 to 299"),
    "strong bias": Case({"logit_bias": {"1": 101}}, "logit_bias.1", "decimal_above_max_value", "<= 100"),
    "many biases": Case(
        {"logit_bias": {str(i): 0 for i in range(301)}}, "logit_bias", "array_above_max_length", "at most 300"
    ),
    "penalty": Case({"presence_penalty": 2.5}, "presence_penalty", "decimal_above_max_value", "<= 2"),
    "false is no penalty": Case({"presence_penalty": False}, "presence_penalty", "invalid_type", "boolean"),
    "low penalty": Case({"frequency_penalty": -3}, "frequency_penalty", "decimal_below_min_value", ">= -2"),
    "no repetition": Case({"repetition_penalty": 0}, "repetition_penalty", "decimal_below_min_value", "> 0"),
    "n-gram": Case({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size", "integer_below_min_value", ">= 0"),
    "empty bad word": Case({"bad_words": [""]}, "bad_words[0]", "empty_string", "at least one"),
    "a bad word": Case({"bad_words": "x"}, "bad_words", "invalid_type", "an array"),
    "min_p": Case({"min_p": 1.1}, "min_p", "decimal_above_max_value", "<= 1"),
    "typical_p": Case({"typical_p": 0}, "typical_p", "decimal_below_min_value", "> 0"),
    "stop token": Case({"stop_token_ids": [300]}, "stop_token_ids", "invalid_value", "from 0 to 299"),
    "stop token in words": Case({"stop_token_ids": ["a"]}, "stop_token_ids[0]", "invalid_type", "integer"),
    "many beams": Case({"num_beams": 17}, "num_beams", "integer_above_max_value", "<= 16"),
    "more beams than slots": Case({"num_beams": 9}, "num_beams", "integer_above_max_value", "at most 8"),
    "hot beams": Case({"num_beams": 2, "temperature": 1.5}, "temperature", "unsupported_value", "not sample"),
    "beams and top_k": Case({"num_beams": 2, "top_k": 5}, "top_k", "unsupported_value", "not sample"),
    "beams and stop": Case({"num_beams": 2, "stop": "a"}, "stop", "unsupported_value", "'stop_token_ids'"),
    "no beams": Case({"length_penalty": 2}, "length_penalty", "unsupported_value", "Send 'num_beams' too"),
    "early": Case({"early_stopping": "soon"}, "early_stopping", "invalid_value", '"never"'),
    "early without beams": Case({"early_stopping": True}, "early_stopping", "unsupported_value", "num_beams"),
    "user": Case({"user": 5}, "user", "invalid_type", "expected a string"),
}

OF_RESPONSES = {
    "no input": Case({"input": None}, "input", "missing_required_parameter", "'input'"),
    "empty input": Case({"input": ""}, "input", "empty_string", "at least one character"),
    "no items": Case({"input": []}, "input", "empty_string", "at least one character"),
    "input of a number": Case({"input": 5}, "input", "invalid_type", "a string or an array"),
    "items of numbers": Case({"input": [5]}, "input[0]", "invalid_type", "an object"),
    "too long": Case({"input": "q " * 64}, "input", "context_length_exceeded", "Send at most 63"),
    "far too long": Case({"input": "q" * 100_000}, "input", "context_length_exceeded", "Send at most 63"),
    "NUL": Case({"input": "a\0b"}, "input", "invalid_value", "NUL"),
    "half a pair": Case({"input": "a\ud800"}, "input", "invalid_value", "surrogate"),
    "half a pair in a name": Case({"metadata": {"\udfff": "x"}}, "metadata", "invalid_value", "surrogate"),
    "two turns": Case(
        {"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        "input",
        "unsupported_value",
        "one string",
    ),
    "an assistant": Case(
        {"input": [{"role": "assistant", "content": "a"}]}, "input", "unsupported_value", "one string"
    ),
    "instructions": Case({"instructions": "be"}, "instructions", "unsupported_parameter", "into 'input'"),
    "a tool's role": Case(
        {"input": [{"role": "tool", "content": "a"}]}, "input[0].role", "invalid_value", "'user'"
    ),
    "an image": Case(
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0]",
        "unsupported_value",
        "input_text",
    ),
    "another item": Case(
        {"input": [{"type": "function_call", "role": "user", "content": "a"}]},
        "input[0].type",
        "invalid_value",
        "'message'",
    ),
    "unknown in an item": Case(
        {"input": [{"role": "user", "content": "a", "who": 1}]}, "input[0].who", "unknown_parameter", "Leave"
    ),
    "both limits": Case(
        {"max_tokens": 5, "max_output_tokens": 5}, "max_tokens", "duplicate_parameter", "one of them"
    ),
    "large limit": Case(
        {"max_output_tokens": 999}, "max_output_tokens", "context_length_exceeded", "at most 63"
    ),
    "not stored in the background": Case({"store": False}, "store", "unsupported_value", "synchronous"),
    "background": Case({"background": "true"}, "background", "invalid_type", "expected a boolean"),
    "much metadata": Case(
        {"metadata": {str(i): "" for i in range(17)}}, "metadata", "array_above_max_length", "at most 16"
    ),
    "long name": Case({"metadata": {"k" * 65: ""}}, None, "string_above_max_length", "at most 64"),
    "long value": Case({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length", "most 512"),
    "metadata of numbers": Case({"metadata": {"k": 1}}, "metadata.k", "invalid_type", "a string"),
    "metadata as a list": Case({"metadata": []}, "metadata", "invalid_type", "an object"),
    "tools": Case({"tools": [{"type": "web_search"}]}, "tools", NOT_YET, "Leave it out"),
    "tool_choice": Case({"tool_choice": "required"}, "tool_choice", "invalid_value", "'auto' or 'none'"),
    "truncation": Case({"truncation": "some"}, "truncation", "invalid_value", "Send 'auto' or 'disabled'"),
    "top logprobs": Case({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value", "<= 20"),
    "logprobs": Case({"logprobs": 1}, "logprobs", NOT_YET, "'logprobs' is not supported yet. Leave it out."),
    "logprobs of beams": Case(
        {"top_logprobs": 3, "num_beams": 2}, "top_logprobs", "unsupported_value", "beam search"
    ),
    "include": Case({"include": ["x"]}, "include[0]", "invalid_value", "message.output_text.logprobs"),
    "n": Case({"n": 2}, "n", "unknown_parameter", "Leave it out"),
    "tier": Case({"service_tier": "flex"}, "service_tier", "unsupported_value", '"auto" or "default"'),
    "json": Case({"text": {"format": {"type": "json_object"}}}, "text", "unsupported_value", "text"),
    "a chain": Case(
        {"model": "org/chat", "previous_response_id": "resp_1"},
        "previous_response_id",
        "previous_response_not_found",
        "not found",
    ),
    "reasoning": Case({"reasoning": {"effort": "low"}}, "reasoning", NOT_YET, "Leave it out"),
    "template that refuses": Case(
        {"model": "org/chat", "input": "a" * 200}, "input", "context_length_exceeded", "at most 63"
    ),
}

OF_CHOICES = {
    "n": Case({"n": 129}, "n", "integer_above_max_value", "<= 128"),
    "no n": Case({"n": 0}, "n", "integer_below_min_value", ">= 1"),
    "more texts than beams": Case({"num_beams": 2, "n": 3}, "n", "integer_above_max_value", "at most 2"),
    "a streamed search": Case({"num_beams": 2, "stream": True}, "num_beams", "unsupported_value", "streamed"),
    "stream options": Case({"stream_options": {}}, "stream_options", "unsupported_value", "'stream': true"),
    "usage in words": Case(
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        "stream_options.include_usage",
        "invalid_type",
        "a boolean",
    ),
    "another stream option": Case(
        {"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter", "Leave it out"
    ),
    "background": Case({"background": True}, "background", "unknown_parameter", "Leave it out"),
}

OF_COMPLETIONS = {
    "empty prompt": Case({"prompt": ""}, "prompt", "empty_string", "leave it out"),
    "no prompts": Case({"prompt": []}, "prompt", "empty_string", "leave it out"),
    "one empty prompt": Case({"prompt": ["a", ""]}, "prompt", "empty_string", "leave it out"),
    "empty tokens": Case({"prompt": [[]]}, "prompt", "empty_string", "leave it out"),
    "an object": Case({"prompt": {}}, "prompt", "invalid_type", "array of strings"),
    "half tokens": Case({"prompt": [1, 2.5]}, "prompt", "invalid_type", "array of strings"),
    "true tokens": Case({"prompt": [True]}, "prompt", "invalid_type", "array of strings"),
    "a null prompt": Case({"prompt": [None]}, "prompt", "invalid_type", "array of strings"),
    "unknown token": Case({"prompt": [300]}, "prompt", "invalid_value", "from 0 to 299"),
    "negative token": Case({"prompt": [[-1]]}, "prompt", "invalid_value", "from 0 to 299"),
    "too long": Case({"prompt": [1] * 64}, "prompt", "context_length_exceeded", "at most 63"),
    "one too long": Case({"prompt": ["a", "q " * 64]}, "prompt", "context_length_exceeded", "at most 63"),
    "NUL": Case({"prompt": ["a", "b\0"]}, "prompt[1]", "invalid_value", "NUL"),
    "129 prompts": Case({"prompt": ["a"] * 129}, "prompt", "array_above_max_length", "at most 128"),
    "prompts times n": Case({"prompt": ["a"] * 3, "n": 43}, "n", "integer_above_max_value", "at most 42"),
    "echo": Case({"echo": "yes"}, "echo", "invalid_type", "expected a boolean"),
    "best_of": Case({"best_of": 21}, "best_of", "integer_above_max_value", "<= 20"),
    "best of fewer": Case({"best_of": 2, "n": 3}, "best_of", "integer_below_min_value", "at least 3"),
    "prompts times best_of": Case(
        {"prompt": ["a"] * 20, "best_of": 20}, "best_of", "integer_above_max_value", "at most 6"
    ),
    "beams and best_of": Case({"num_beams": 2, "best_of": 2}, "best_of", "unsupported_value", "beam search"),
    "beams and logprobs": Case({"num_beams": 2, "logprobs": 0}, "logprobs", "unsupported_value", "beam"),
    "no best of": Case({"best_of": 0}, "best_of", "integer_below_min_value", ">= 1"),
    "a streamed choice": Case({"best_of": 2, "stream": True}, "best_of", "unsupported_value", "streamed"),
    "beams of nothing": Case(
        {"num_beams": 2, "max_tokens": 0}, "max_tokens", "integer_below_min_value", "Send 1 at least"
    ),
    "a minimum of nothing": Case(
        {"min_tokens": 1, "max_tokens": 0}, "min_tokens", "integer_above_max_value", "at most 0"
    ),
    "too long to be read": Case(
        {"prompt": [1] * 65, "max_tokens": 0}, "prompt", "context_length_exceeded", "at most 64"
    ),
    "logprobs": Case({"logprobs": 6}, "logprobs", "integer_above_max_value", "<= 5"),
    "logprobs in words": Case({"logprobs": True}, "logprobs", "invalid_type", "an integer"),
    "suffix": Case({"suffix": "x"}, "suffix", NOT_YET, "Leave it out"),
}


def says(**message: Any) -> dict[str, Any]:
    """A body whose one message is that."""
    return {"messages": [message]}


OF_CHAT = {
    "no messages": Case({"messages": None}, "messages", "missing_required_parameter", "'messages'"),
    "empty messages": Case({"messages": []}, "messages", "empty_array", "at least one"),
    "messages of text": Case({"messages": "hi"}, "messages", "invalid_type", "an array"),
    "a message of text": Case({"messages": ["hi"]}, "messages[0]", "invalid_type", "an object"),
    "no role": Case(says(content="a"), "messages[0].role", "missing_required_parameter", "role"),
    "no content": Case(says(role="user"), "messages[0].content", "missing_required_parameter", "content"),
    "null content": Case(says(role="user", content=None), "messages[0].content", "invalid_type", "an array"),
    "no parts": Case(says(role="user", content=[]), "messages[0].content", "empty_array", "at least one"),
    "a tool": Case(says(role="tool", content="a"), "messages[0].role", "invalid_value", "'user'"),
    "a function": Case(says(role="function", content="a"), "messages[0].role", "invalid_value", "'user'"),
    "an image": Case(
        says(role="user", content=[{"type": "image_url", "image_url": {"url": "x"}}]),
        "messages[0].content[0]",
        "unsupported_value",
        "send type 'text'",
    ),
    "a number as text": Case(
        says(role="user", content=[{"type": "text", "text": 5}]),
        "messages[0].content[0].text",
        "invalid_type",
        "a string",
    ),
    "tool calls": Case(
        says(role="assistant", content="a", tool_calls=[{"id": "1"}]),
        "messages[0].tool_calls",
        "unsupported_value",
        "Leave it out",
    ),
    "a refusal": Case(
        says(role="assistant", content="a", refusal="no"),
        "messages[0].refusal",
        "unsupported_value",
        "Leave it out",
    ),
    "unknown in a message": Case(
        says(role="user", content="a", who=1), "messages[0].who", "unknown_parameter", "Leave it out"
    ),
    "NUL": Case(says(role="user", content="a\0"), "messages[0].content", "invalid_value", "NUL"),
    "too long": Case(
        says(role="user", content="q " * 64), "messages", "context_length_exceeded", "at most 63"
    ),
    "base model": Case({"model": "starter"}, "model", "no_chat_template", "/v1/completions"),
    "both limits": Case(
        {"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "duplicate_parameter", "one of them"
    ),
    "large limit": Case(
        {"max_completion_tokens": 99}, "max_completion_tokens", "context_length_exceeded", "Send at most"
    ),
    "no tokens": Case({"max_tokens": 0}, "max_tokens", "integer_below_min_value", ">= 1"),
    "logprobs as a number": Case({"logprobs": 1}, "logprobs", "invalid_type", "a boolean"),
    "top_logprobs alone": Case({"top_logprobs": 2}, "top_logprobs", "unsupported_value", "'logprobs': true"),
    "top_logprobs": Case(
        {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value", "<= 20"
    ),
    "beams and logprobs": Case({"num_beams": 2, "logprobs": True}, "logprobs", "unsupported_value", "beam"),
    "best_of": Case({"best_of": 2}, "best_of", "unknown_parameter", "Leave it out"),
    "tools": Case({"tools": [{"type": "function"}]}, "tools", NOT_YET, "Leave it out"),
    "a tool's choice": Case({"tool_choice": "required"}, "tool_choice", NOT_YET, "Leave it out"),
    "functions": Case({"functions": [{"name": "f"}]}, "functions", NOT_YET, "Leave it out"),
    "audio": Case({"audio": {"voice": "ash"}}, "audio", NOT_YET, "Leave it out"),
    "modalities": Case({"modalities": ["text", "audio"]}, "modalities", NOT_YET, "Leave it out"),
    "JSON": Case({"response_format": {"type": "json_object"}}, "response_format", NOT_YET, "Leave it out"),
    "a prediction": Case({"prediction": {"type": "content"}}, "prediction", NOT_YET, "Leave it out"),
    "the web": Case({"web_search_options": {}}, "web_search_options", NOT_YET, "Leave it out"),
    "reasoning": Case({"reasoning_effort": "high"}, "reasoning_effort", NOT_YET, "Leave it out"),
    "tier": Case({"service_tier": "flex"}, "service_tier", "invalid_value", "'auto' or 'default'"),
    "store": Case({"store": "yes"}, "store", "invalid_type", "a boolean"),
    "metadata": Case({"metadata": {"k": 1}}, "metadata.k", "invalid_type", "a string"),
}


@pytest.fixture(scope="module")
def house(services: Path, _shared_app: Flask, tokenizer: Tokenizer) -> Iterator[tuple[Caller, Database]]:
    """Somebody, and a database for all of these tests, because none of them may leave anything in it."""
    settings = Settings(_env_file=None, var_dir=services)
    database = Database(settings.database, connections=1)
    offer_models(database, settings, tokenizer)
    with database.transaction() as connection:
        connection.execute(delete(jobs))
    yield Caller(_shared_app, issue(database, "somebody")), database
    database.close()


def cases() -> list[Any]:
    """Every case, with the URL it is sent to and a good request that it spoils."""
    response = {"model": "starter", "input": "d", "background": True}
    completion = {"model": "starter", "prompt": "d"}
    chat = {"model": "org/chat", "messages": [{"role": "user", "content": "d"}]}
    return [
        pytest.param(path, {**good, **case.fields}, case, id=f"{path[4:]}: {name}")
        for path, good, table in (
            (RESPONSES, response, BOTH | OF_RESPONSES),
            (COMPLETIONS, completion, BOTH | OF_CHOICES | OF_COMPLETIONS),
            (CHAT, chat, BOTH | OF_CHOICES | OF_CHAT),
        )
        for name, case in table.items()
    ]


@pytest.mark.parametrize(("path", "body", "case"), cases())
def test_a_bad_request_is_told_what_to_send(
    house: tuple[Caller, Database], path: str, body: dict[str, Any], case: Case
) -> None:
    caller, database = house
    answer = caller.post(path, **body)
    error = the_error(answer, case.status, case.code)
    if case.param is not None:
        assert error["param"] == case.param
    assert case.words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert rows(database) == 0


GOOD = b'{"model": "starter", "prompt": "d", "input": "d"}'
BODIES = {
    "empty": (b"", {}, 400, "invalid_json"),
    "not JSON": (b"model=starter", {}, 400, "invalid_json"),
    "half": (GOOD[:-1], {}, 400, "invalid_json"),
    "two": (GOOD + GOOD, {}, 400, "invalid_json"),
    "list": (b"[1]", {}, 400, "invalid_json"),
    "string": (b'"model"', {}, 400, "invalid_json"),
    "null": (b"null", {}, 400, "invalid_json"),
    "NaN": (b'{"temperature": NaN}', {}, 400, "invalid_json"),
    "Infinity": (b'{"temperature": -Infinity}', {}, 400, "invalid_json"),
    "deep": (b'{"input":' + b"[" * 50_000 + b"]" * 50_000 + b"}", {}, 400, "invalid_json"),
    "deep objects": (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, {}, 400, "invalid_json"),
    "twice": (b'{"model": "a", "model": "b"}', {}, 400, "duplicate_parameter"),
    "Latin-1": (b'{"model": "\xe9"}', {}, 400, "invalid_json"),
    "UTF-16": (GOOD.decode().encode("utf-16"), {}, 400, "invalid_json"),
    "BOM": (b"\xef\xbb\xbf" + GOOD, {}, 400, "invalid_json"),
    "NUL in a name": (b'{"a\\u0000": 1}', {}, 400, "invalid_value"),
    "raw NUL": (b'{"model": "a\0"}', {}, 400, "invalid_json"),
    "a form": (GOOD, {"Content_Type": "application/x-www-form-urlencoded"}, 400, "unsupported_content_type"),
    "no type": (GOOD, {"Content_Type": None}, 400, "unsupported_content_type"),
    "gzip": (GOOD, {"Content_Encoding": "gzip"}, 415, None),
    "5 MB in chunks": (BytesIO(GOOD[:-1] + b" " * 5_000_000), {}, 413, "request_too_large"),
    "5 MB": (b'{"input": "' + b"x" * 5_000_000 + b'"}', {}, 413, "request_too_large"),
}


@pytest.mark.parametrize("path", [RESPONSES, COMPLETIONS, CHAT])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request_is_refused(house: tuple[Caller, Database], path: str, name: str) -> None:
    caller, database = house
    data, headers, status, code = BODIES[name]
    if isinstance(data, BytesIO):
        data.seek(0)
    the_error(caller.send("POST", path, data=data, **headers), status, code)
    assert rows(database) == 0


@pytest.mark.parametrize("path", [RESPONSES, COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    ("param", "number", "code"),
    [
        ("temperature", "1e400", "decimal_above_max_value"),
        ("temperature", "-1e400", "decimal_below_min_value"),
        ("temperature", "7" * 5000, "decimal_above_max_value"),
        ("seed", "7" * 5000, "integer_above_max_value"),
        ("seed", "-" + "7" * 5000, "integer_below_min_value"),
        ("seed", "1e400", "invalid_type"),
        ("max_tokens", "7" * 5000, "integer_above_max_value"),
        ("user", "7" * 5000, "invalid_type"),
        ("foo", "7" * 5000, "unknown_parameter"),
    ],
)
def test_a_number_beyond_all_numbers_is_only_too_large(
    house: tuple[Caller, Database], path: str, param: str, number: str, code: str
) -> None:
    good = {
        RESPONSES: '"input": "d"',
        COMPLETIONS: '"prompt": "d"',
        CHAT: '"messages": [{"role": "user", "content": "d"}]',
    }[path]
    body = f'{{"model": "starter", {good}, "{param}": {number}}}'
    error = the_error(house[0].send("POST", path, data=body), 400, code)
    assert error["param"] == param
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    ("path", "param", "code"),
    [
        ("/v1/responses?limit=0", "limit", "integer_below_min_value"),
        ("/v1/responses?limit=101", "limit", "integer_above_max_value"),
        ("/v1/responses?limit=x", "limit", "invalid_type"),
        ("/v1/responses?limit=1&limit=2", "limit", "duplicate_parameter"),
        ("/v1/responses?order=up", "order", "invalid_value"),
        ("/v1/responses?page=2", "page", "unknown_parameter"),
        ("/v1/responses/resp_0?wait=-1", "wait", "decimal_below_min_value"),
        ("/v1/responses/resp_0?wait=601", "wait", "decimal_above_max_value"),
        ("/v1/responses/resp_0?wait=nan", "wait", "invalid_value"),
        ("/v1/responses/resp_0?wait=soon", "wait", "invalid_type"),
        ("/v1/responses/resp_0?stream=maybe", "stream", "invalid_type"),
        ("/v1/responses/resp_0?include[]=x", "include[]", NOT_YET),
        ("/v1/responses/resp_0?include[]=x&include[]=y", "include[]", NOT_YET),
        ("/v1/responses/resp_0?starting_after=1", "starting_after", "unsupported_value"),
        ("/v1/models?limit=1", "limit", "unknown_parameter"),
        ("/v1/models/starter?x=1", "x", "unknown_parameter"),
    ],
)
def test_a_bad_query_is_told_what_to_send(
    house: tuple[Caller, Database], path: str, param: str, code: str
) -> None:
    assert the_error(house[0].get(path), 400, code)["param"] == param


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", RESPONSES),
        ("POST", COMPLETIONS),
        ("POST", CHAT),
        ("POST", "/v1/responses/resp_0/cancel"),
        ("DELETE", "/v1/responses/resp_0"),
    ],
)
def test_a_query_where_there_is_none_is_refused(
    house: tuple[Caller, Database], method: str, path: str
) -> None:
    body = '{"model": "starter", "input": "d", "background": true}'
    answer = house[0].send(method, f"{path}?background=true", data=body)
    assert the_error(answer, 400, "unknown_parameter")["param"] == "background"
    assert rows(house[1]) == 0


@pytest.mark.parametrize("after", ["resp_" + "0" * 32, "x", "%ed%a0%80"])
def test_a_page_after_nothing_is_refused(house: tuple[Caller, Database], after: str) -> None:
    assert the_error(house[0].get(f"/v1/responses?after={after}"), 404, None)["param"] == "after"


@pytest.mark.parametrize(
    ("url", "param"),
    [
        ("responses?after=a%00", "after"),
        ("webhook_endpoints?after=%00", "after"),
        ("fine_tuning/jobs?metadata[a]=%00", "metadata[a]"),
        ("fine_tuning/jobs?metadata[%00]=a", "metadata[\0]"),
        ("models?%00=", "\0"),
    ],
)
def test_a_query_with_a_nul_is_refused(house: tuple[Caller, Database], url: str, param: str) -> None:
    error = the_error(house[0].get(f"/v1/{url}"), 400, "invalid_value")
    assert error["param"] == param
    assert "NUL" in error["message"]


@pytest.mark.parametrize("name", ["x", "%00", "resp_%0a", "resp_" + "0" * 32, "resp_" + "0" * 5000, "%F0%9F"])
def test_an_id_that_is_none_is_not_found(house: tuple[Caller, Database], name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        the_error(house[0].send(method, f"/v1/responses/{name}{path}"), 404, None)


def test_other_urls_and_methods_get_the_error_object_too(house: tuple[Caller, Database]) -> None:
    caller, _ = house
    the_error(caller.get("/v1/nothing"), 404, "unknown_url")
    the_error(caller.get("/nothing"), 404, "unknown_url")
    the_error(caller.get("/v1//responses"), 404, "unknown_url")
    the_error(caller.send("PUT", "/v1/responses"), 405, "method_not_supported")
    assert "POST" in caller.send("PUT", "/v1/responses").headers["Allow"]


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["starter", "user", "message", "input_text"]),
)
NAMES = sorted(
    {
        name
        for case in (BOTH | OF_RESPONSES | OF_CHOICES | OF_COMPLETIONS | OF_CHAT).values()
        for name in case.fields
    }
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*NAMES, "role", "content", "type", ""]), inner, max_size=4)
    ),
    max_leaves=10,
)


@examples(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from([RESPONSES, COMPLETIONS, CHAT]), name=st.sampled_from(NAMES), value=VALUES)
def test_whatever_stands_in_a_field_is_taken_or_refused(
    house: tuple[Caller, Database], path: str, name: str, value: Any
) -> None:
    good = {
        RESPONSES: {"model": "starter", "input": "d"},
        COMPLETIONS: {"model": "starter", "prompt": "d"},
        CHAT: {"model": "org/chat", "messages": [{"role": "user", "content": "d"}]},
    }[path]
    body = {**good, name: value, "max_tokens": 999}  # too many: nobody shall wait for an answer
    answer = house[0].send("POST", path, data=json.dumps(body))
    assert answer.status_code in (400, 404), answer.text
    the_error(answer, answer.status_code, answer.get_json()["error"]["code"])
