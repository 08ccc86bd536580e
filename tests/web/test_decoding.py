"""Decoding parameters on their way to the worker, and log-probabilities on their way back."""

from typing import Any

import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from jobs.attempts import ClaimedJob
from tests.web.conftest import RECEIPT, Caller, FakeWorker, output
from web.logprobs import Offsets

ASKED = {
    "seed": 5,
    "logit_bias": {"3": -1.5, "7": 100},
    "repetition_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "no_repeat_ngram_size": 3,
    "temperature": 0.7,
    "top_k": 9,
    "top_p": 0.8,
    "min_p": 0.1,
    "typical_p": 0.6,
    "min_tokens": 2,
    "stop": ["a"],
    "stop_token_ids": [4, 5],
    "ignore_eos": True,
}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/completions"])
def test_every_parameter_reaches_the_worker_as_it_was_sent(
    caller: Caller, worker: FakeWorker, path: str
) -> None:
    asked: list[dict[str, Any]] = []
    worker.start(lambda job: (asked.append(job.input["sampling"]), output("x"))[1])
    text = {"input": "a"} if "responses" in path else {"prompt": "a"}
    answer = caller.post(path, model="starter", **text, **ASKED)
    assert answer.status_code == 200, answer.text
    assert {name: asked[0][name] for name in ASKED} == ASKED


def test_a_response_shows_the_parameters_it_was_made_with(caller: Caller) -> None:
    made = caller.post("/v1/responses", model="starter", input="a", background=True, bad_words=["x"], **ASKED)
    shown = made.get_json()
    assert {name: shown[name] for name in ASKED} == ASKED
    assert shown["bad_words"] == ["x"]


def test_a_bad_word_is_banned_alone_and_after_a_space(
    caller: Caller, worker: FakeWorker, tokenizer: Tokenizer
) -> None:
    caller.post("/v1/responses", model="starter", input="a", background=True, bad_words=["self"])
    (job,) = worker.claim()
    spelled = {tuple(tokenizer.encode(word).ids) for word in ("self", " self")}
    assert {tuple(word) for word in job.input["sampling"]["bad_words"]} == spelled
    assert len(spelled) == 2


def test_a_beam_search_does_not_sample(caller: Caller, worker: FakeWorker) -> None:
    beams = {"num_beams": 4, "length_penalty": 0.5, "early_stopping": "never"}
    for given in (beams, beams | {"temperature": 0}):
        made = caller.post("/v1/responses", model="starter", input="a", background=True, **given)
        assert made.status_code == 200, made.text
        (job,) = worker.claim()
        sampling = job.input["sampling"]
        assert {name: sampling[name] for name in beams} == beams
        assert sampling["temperature"] == 0


def test_best_of_and_n_reach_the_worker(caller: Caller, worker: FakeWorker) -> None:
    asked: list[dict[str, Any]] = []
    worker.start(lambda job: (asked.append(job.input), output("x", "y"))[1])
    caller.post("/v1/completions", model="starter", prompt="a", n=2, best_of=5)
    assert (asked[0]["n"], asked[0]["best_of"]) == (2, 5)


def said(tokenizer: Tokenizer, prompt: str, text: str) -> dict[str, Any]:
    """What a worker stores of a text with the two likeliest alternatives of each token."""

    def logprobs(tokens: list[int]) -> list[dict[str, Any]]:
        return [{"token": token, "logprob": -0.5, "top": [[token, -0.5], [1, -2.0]]} for token in tokens]

    read, written = tokenizer.encode(prompt).ids, tokenizer.encode(text).ids
    made = output(text, prompt_tokens=len(read))
    made["sequences"][0] |= {
        "tokens": written,
        "logprobs": logprobs(written),
        "prompt_tokens": read,
        "prompt_logprobs": [None, *logprobs(read[1:])],
    }
    return made


@pytest.mark.parametrize(
    "pieces",
    [
        [b"a", b"\xff", b"b"],
        [b"a", b"\xe2\x82", b"b", b"c"],
        [b"a", b"\xe2\x82", b"\xac\xe2", b"\x82", b"\xac", b"", b"b"],
        [b"\xf0\x9f", b"\x98", b"\xf0\x9f\x98\x80", b"b"],
    ],
)
def test_a_token_begins_where_the_text_has_it(pieces: list[bytes]) -> None:
    text = b"".join(pieces).decode(errors="replace")
    offsets = Offsets().follow(pieces)
    assert offsets == sorted(offsets)
    for piece, offset in zip(pieces, offsets, strict=True):
        if piece.isascii():
            assert text[offset : offset + len(piece)] == piece.decode()


def test_a_completion_has_its_log_probabilities_as_parallel_lists(
    caller: Caller, worker: FakeWorker, tokenizer: Tokenizer
) -> None:
    worker.start(lambda job: said(tokenizer, "def", " é"))
    answer = caller.post("/v1/completions", model="starter", prompt="def", logprobs=2).get_json()
    found = answer["choices"][0]["logprobs"]
    assert found["tokens"] == [" ", "bytes:\\xc3", "bytes:\\xa9"]
    assert found["token_logprobs"] == [-0.5] * 3
    assert found["text_offset"] == [0, 1, 1]
    assert found["top_logprobs"][0] == {" ": -0.5, "!": -2.0}
    assert answer["receipt"] == RECEIPT


def test_echo_puts_the_prompt_and_its_log_probabilities_first(
    caller: Caller, worker: FakeWorker, tokenizer: Tokenizer
) -> None:
    asked: list[dict[str, Any]] = []

    def perform(job: ClaimedJob) -> dict[str, Any]:
        asked.append(job.input)
        return said(tokenizer, "def", " x")

    worker.start(perform)
    for prompt in ("def", tokenizer.encode("def").ids):
        answer = caller.post("/v1/completions", model="starter", prompt=prompt, logprobs=0, echo=True)
        choice = answer.get_json()["choices"][0]
        assert choice["text"] == "def x"
        assert "".join(choice["logprobs"]["tokens"]) == "def x"
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert choice["logprobs"]["top_logprobs"][0] is None
        assert asked[-1]["echo"] is True
    answer = caller.post("/v1/completions", model="starter", prompt="def", echo=True)
    assert answer.get_json()["choices"][0]["text"] == "def x"


@pytest.mark.parametrize(
    ("given", "alternatives"),
    [({"top_logprobs": 2}, 2), ({"include": ["message.output_text.logprobs"]}, 0)],
)
def test_a_response_has_its_log_probabilities_where_the_official_client_looks(
    address: str, key: str, worker: FakeWorker, tokenizer: Tokenizer, given: dict[str, Any], alternatives: int
) -> None:
    asked: list[int] = []

    def perform(job: ClaimedJob) -> dict[str, Any]:
        asked.append(job.input["sampling"]["logprobs"])
        return said(tokenizer, "def", " x") | {"model_digest": digest}

    client = OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, _strict_response_validation=True)
    digest = client.models.retrieve("starter").to_dict()["digest"]
    worker.start(perform)
    made = client.responses.create(model="starter", input="def", **given)
    assert asked == [alternatives]
    (message,) = made.output
    first = message.content[0].logprobs[0]  # type: ignore[union-attr, index]
    assert (first.token, first.logprob, bytes(first.bytes)) == (" x"[:1], -0.5, b" ")
    assert [one.token for one in first.top_logprobs] == [" ", "!"]
