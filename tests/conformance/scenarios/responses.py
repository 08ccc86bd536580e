"""`client.responses`: at once, in the background, streamed, resumed, chained."""

from typing import Any

from openai import BadRequestError, NotFoundError
from openai.types.responses import Response

from tests.conformance.scenarios.registry import Server, refused, scenario, wait_for

FINAL = {"completed", "incomplete", "failed", "cancelled"}
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.incomplete",
]
SHORT: Any = {
    "model": "starter",
    "input": "\ndef",
    "max_output_tokens": 12,
    "extra_body": {"ignore_eos": True},
}


def end(server: Server, response_id: str) -> Response:
    def look() -> Response | None:
        seen = server.strict.responses.retrieve(response_id)
        return seen if seen.status in FINAL else None

    return wait_for(look)


def told(events: Any) -> list[dict[str, Any]]:
    return [event.to_dict() for event in events]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The types in their order, each run of one type once."""
    return [one["type"] for n, one in enumerate(events) if n == 0 or events[n - 1]["type"] != one["type"]]


def text(events: list[dict[str, Any]]) -> str:
    return "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")


@scenario
def a_response_is_made_at_once_and_is_incomplete_at_its_limit(server: Server) -> None:
    made = server.strict.responses.create(
        **SHORT | {"model": "lab/chatty:v1"},
        instructions="be brief",
        metadata={"a": "b"},
        temperature=0.5,
        top_p=0.9,
        user="me",
    )
    assert (made.status, made.instructions, made.metadata) == ("incomplete", "be brief", {"a": "b"})
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.usage is not None
    assert made.usage.output_tokens == 12
    assert made.usage.total_tokens == made.usage.input_tokens + 12
    assert made.output_text
    assert str(made._request_id).startswith("req_")


@scenario
def a_response_shows_logprobs(server: Server) -> None:
    made = server.strict.responses.create(
        **SHORT, top_logprobs=2, include=["message.output_text.logprobs"], temperature=0
    )
    part = made.output[0].content[0]  # type: ignore[union-attr, index]
    assert "".join(one.token for one in part.logprobs) == made.output_text  # type: ignore[union-attr]
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)  # type: ignore[union-attr]


@scenario
def a_background_response_is_polled_to_its_end_and_deleted(server: Server) -> None:
    made = server.strict.responses.create(**SHORT, background=True)
    assert (made.status, made.background) == ("queued", True)
    done = end(server, made.id)
    assert (done.status, bool(done.output_text)) == ("incomplete", True)
    server.strict.responses.delete(made.id)
    with refused(NotFoundError, None, "id"):
        server.strict.responses.retrieve(made.id)


@scenario
def a_response_ends_when_a_stop_text_comes(server: Server) -> None:
    made = server.strict.responses.create(
        model="starter", input="\ndef", extra_body={"stop": ["e", "a", "("], "seed": 1, "min_tokens": 1}
    )
    assert made.status == "completed"
    assert made.completed_at is not None


@scenario
def a_background_response_is_cancelled(server: Server) -> None:
    made = server.strict.responses.create(
        model="starter", input="a", background=True, extra_body={"ignore_eos": True, "max_tokens": 480}
    )
    first = server.strict.responses.cancel(made.id)
    assert first.status in ("cancelled", "in_progress", "queued")
    assert end(server, made.id).status == "cancelled"
    assert server.strict.responses.cancel(made.id).status == "cancelled"
    with refused(NotFoundError, None, "id"):
        server.strict.responses.cancel("resp_none")


@scenario
def a_synchronous_response_cannot_be_cancelled(server: Server) -> None:
    made = server.strict.responses.create(**SHORT)
    with refused(BadRequestError, "not_cancellable", "id"):
        server.strict.responses.cancel(made.id)


@scenario
def a_response_is_streamed(server: Server) -> None:
    whole = server.strict.responses.create(**SHORT | {"extra_body": {"ignore_eos": True, "seed": 5}})
    events = told(
        server.strict.responses.create(**SHORT | {"extra_body": {"ignore_eos": True, "seed": 5}}, stream=True)
    )
    assert [kind for kind in kinds(events) if kind != "response.queued"] == ORDER
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    assert text(events) == whole.output_text
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == whole.output_text
    assert final["usage"]["output_tokens"] == 12


@scenario
def a_background_stream_that_was_left_goes_on_where_it_was(server: Server) -> None:
    asked = SHORT | {"max_output_tokens": 60}
    begun: list[dict[str, Any]] = []
    with server.strict.responses.create(**asked, background=True, stream=True) as stream:
        for event in stream:
            begun.append(event.to_dict())
            if event.type == "response.output_text.delta":
                break
    name = begun[0]["response"]["id"]
    rest = told(
        server.strict.responses.retrieve(name, stream=True, starting_after=begun[-1]["sequence_number"])
    )
    every = told(server.strict.responses.retrieve(name, stream=True))
    assert begun + rest == every  # live, resumed, and once more after the end
    assert [kind for kind in kinds(every) if kind != "response.queued"] == ORDER
    assert text(every) == end(server, name).output_text


@scenario
def a_stream_helper_adds_the_events_up(server: Server) -> None:
    ends: Any = {
        "model": "starter",
        "input": "\ndef",
        "extra_body": {"stop": ["e", "a", "("], "min_tokens": 1},
    }
    with server.strict.responses.stream(**ends) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text


@scenario
def responses_are_chained_and_show_what_they_read(server: Server) -> None:
    chat: Any = {"model": "lab/chatty:v1", "max_output_tokens": 6, "extra_body": {"ignore_eos": True}}
    first = server.strict.responses.create(**chat, input="Hello")
    second = server.strict.responses.create(**chat, input="And?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    items = [
        item.to_dict() for item in server.strict.responses.input_items.list(second.id, order="asc", limit=2)
    ]
    assert [item["role"] for item in items] == ["user", "assistant", "user"]
    said = [item["content"][0]["text"] for item in items]
    assert said == ["Hello", first.output_text, "And?"]
    again: Any = [{"role": "user", "content": "Hello"}, *(item.to_dict() for item in first.output)]
    third = server.strict.responses.create(**chat, input=[*again, {"role": "user", "content": "And?"}])
    assert third.usage is not None
    assert second.usage is not None
    assert third.usage.input_tokens == second.usage.input_tokens
    with refused(BadRequestError, "previous_response_not_found", "previous_response_id"):
        server.strict.responses.create(**chat, input="a", previous_response_id="resp_none")


@scenario
def a_response_that_is_not_stored_is_nowhere(server: Server) -> None:
    made = server.strict.responses.create(**SHORT, store=False)
    with refused(NotFoundError, None, "id"):
        server.strict.responses.retrieve(made.id)
