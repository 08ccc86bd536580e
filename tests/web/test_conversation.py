"""Responses that continue others, and what of a long conversation is read."""

from typing import Any

import openai
import pytest

from jobs.attempts import ClaimedJob
from jobs.errors import NumericalError
from tests.web.conftest import CONTEXT, Caller, FakeWorker, output, the_error

CHAT: dict[str, Any] = {"model": "org/chat", "background": True}


def say(caller: Caller, worker: FakeWorker, text: Any, answer: str, **more: Any) -> tuple[str, ClaimedJob]:
    """One turn; returns its id and what the worker was given."""
    made = caller.post("/v1/responses", **CHAT, input=text, **more)
    assert made.status_code == 200, made.text
    return made.get_json()["id"], worker.one(output(answer))


def prompt(job: ClaimedJob) -> str:
    (found,) = job.input["prompts"]
    return str(found)


def texts(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(item["role"], item["content"][0]["text"]) for item in items]


def test_a_chain_is_read_in_order_and_without_earlier_instructions(
    caller: Caller, worker: FakeWorker
) -> None:
    first, _ = say(caller, worker, "a", "b", instructions="be brief")
    second, job = say(caller, worker, "c", "d", previous_response_id=first, instructions="s")
    assert prompt(job) == "<system>s<user>a<assistant>b<user>c<assistant>"
    third, job = say(caller, worker, "e", "f", previous_response_id=second)
    assert prompt(job) == "<user>a<assistant>b<user>c<assistant>d<user>e<assistant>"
    made = caller.get(f"/v1/responses/{third}").get_json()
    assert (made["previous_response_id"], made["truncation"]) == (second, "disabled")
    items = caller.get(f"/v1/responses/{third}/input_items?order=asc").get_json()["data"]
    assert texts(items) == [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("user", "e"),
    ]
    assert items[1]["id"] == first.replace("resp_", "msg_")
    caller.delete(f"/v1/responses/{first}")  # the chain keeps what it has read
    _, job = say(caller, worker, "e", "f", previous_response_id=second)
    assert prompt(job) == "<user>a<assistant>b<user>c<assistant>d<user>e<assistant>"


def test_items_are_paged_and_the_newest_comes_first(caller: Caller, worker: FakeWorker) -> None:
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": str(n)} for n in range(5)]
    made, _ = say(caller, worker, turns, "x")
    path = f"/v1/responses/{made}/input_items"
    page = caller.get(f"{path}?limit=2").get_json()
    assert [text for _, text in texts(page["data"])] == ["4", "3"]
    assert (page["object"], page["has_more"]) == ("list", True)
    assert [page["first_id"], page["last_id"]] == [item["id"] for item in page["data"]]
    rest = caller.get(f"{path}?limit=3&after={page['last_id']}").get_json()
    assert [text for _, text in texts(rest["data"])] == ["2", "1", "0"]
    assert not rest["has_more"]
    assert the_error(caller.get(f"{path}?after=msg_0"), 404, None)["param"] == "after"
    assert the_error(caller.get(f"{path}?limit=0"), 400, "integer_below_min_value")["param"] == "limit"


def test_the_strict_client_reads_items(address: str, key: str, caller: Caller, worker: FakeWorker) -> None:
    first, _ = say(
        caller, worker, [{"role": "developer", "content": "sing"}, {"role": "user", "content": "a"}], "b"
    )
    second, _ = say(caller, worker, "c", "d", previous_response_id=first)
    with openai.OpenAI(
        base_url=f"{address}/v1", api_key=key, max_retries=0, _strict_response_validation=True
    ) as client:
        items = list(client.responses.input_items.list(second, limit=1, order="asc"))
        assert [item.role for item in items] == ["developer", "user", "assistant", "user"]  # type: ignore[union-attr]


def test_who_waits_or_failed_or_is_somebody_elses_cannot_be_continued(
    caller: Caller, stranger: Caller, worker: FakeWorker
) -> None:
    waiting = caller.post("/v1/responses", **CHAT, input="a").get_json()["id"]
    for who, name, code in (
        (caller, waiting, "previous_response_not_completed"),
        (caller, "resp_0", "previous_response_not_found"),
        (stranger, waiting, "previous_response_not_found"),
    ):
        error = the_error(who.post("/v1/responses", **CHAT, input="b", previous_response_id=name), 400, code)
        assert error["param"] == "previous_response_id"
    worker.one(NumericalError("no"))
    answer = caller.post("/v1/responses", **CHAT, input="b", previous_response_id=waiting)
    the_error(answer, 400, "previous_response_not_completed")


def test_a_base_model_has_no_conversations(caller: Caller, worker: FakeWorker) -> None:
    first, _ = say(caller, worker, "a", "b")
    answer = caller.post("/v1/responses", model="starter", input="c", previous_response_id=first)
    assert the_error(answer, 400, "unsupported_parameter")["param"] == "previous_response_id"


def test_truncation_drops_the_oldest_items_and_never_the_newest_question(
    caller: Caller, worker: FakeWorker
) -> None:
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"q{n}qq"} for n in range(9)]
    too_long = caller.post("/v1/responses", **CHAT, input=turns)
    assert the_error(too_long, 400, "context_length_exceeded")["param"] == "input"
    made, job = say(caller, worker, turns, "x", truncation="auto", instructions="s")
    assert prompt(job).startswith("<system>s<user>q")
    assert prompt(job).endswith("<user>q8qq<assistant>")
    kept = caller.get(f"/v1/responses/{made}/input_items?order=asc").get_json()["data"]
    assert texts(kept)[-1] == ("user", "q8qq")
    assert 0 < len(kept) < 9
    assert job.input["sampling"]["max_tokens"] >= CONTEXT // 4
    _, job = say(caller, worker, turns, "x", truncation="auto", max_output_tokens=40)
    assert prompt(job) == "<user>q8qq<assistant>"
    endless = caller.post("/v1/responses", **CHAT, input="q " * CONTEXT, truncation="auto")
    the_error(endless, 400, "context_length_exceeded")


@pytest.mark.parametrize(("path", "name"), [("responses", "input"), ("chat/completions", "messages")])
def test_a_request_holds_so_many_messages_at_most(caller: Caller, path: str, name: str) -> None:
    turns = [{"role": "user", "content": "a"}] * 2049
    answer = caller.post(f"/v1/{path}", model="org/chat", **{name: turns})
    assert the_error(answer, 400, "array_above_max_length")["param"] == name


def test_truncation_leaves_alone_what_fits(caller: Caller, worker: FakeWorker) -> None:
    _, job = say(caller, worker, [{"role": "user", "content": "a"}], "x", truncation="auto")
    assert prompt(job) == "<user>a<assistant>"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"truncation": "some"}, "truncation", "invalid_value"),
        ({"previous_response_id": 5}, "previous_response_id", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {}}, "stream_options", "unsupported_value"),
        ({"stream": True, "num_beams": 2}, "num_beams", "unsupported_value"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "unsupported_value",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": True}},
            "stream_options.include_usage",
            "unknown_parameter",
        ),
        ({"webhook": "http://example.org"}, "webhook", "invalid_url"),
        ({"webhook": 5}, "webhook", "invalid_type"),
        ({"webhook_events_filter": ["response.completed"]}, "webhook_events_filter", "unsupported_value"),
        (
            {"webhook": "https://example.org", "webhook_events_filter": ["x"]},
            "webhook_events_filter",
            "invalid_value",
        ),
    ],
)
def test_a_bad_parameter_is_named(caller: Caller, body: dict[str, Any], param: str, code: str) -> None:
    answer = caller.post("/v1/responses", model="starter", input="x", background=True, **body)
    assert the_error(answer, 400, code)["param"] == param


@pytest.mark.parametrize(
    ("asked", "param"),
    [("starting_after=1", "starting_after"), ("stream=true&wait=1", "wait")],
)
def test_queries_of_streams_must_agree(caller: Caller, worker: FakeWorker, asked: str, param: str) -> None:
    made, _ = say(caller, worker, "a", "b")
    assert the_error(caller.get(f"/v1/responses/{made}?{asked}"), 400, "unsupported_value")["param"] == param
    error = the_error(
        caller.get(f"/v1/responses/{made}?stream=true&starting_after=-1"), 400, "integer_below_min_value"
    )
    assert error["param"] == "starting_after"
