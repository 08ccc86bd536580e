"""`client.chat.completions`."""

from typing import Any

from openai import BadRequestError

from tests.conformance.scenarios.registry import Server, refused, scenario

ASKED: Any = {
    "model": "lab/chatty:v1",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def é"}],
    "seed": 3,
    "max_completion_tokens": 10,
    "extra_body": {"ignore_eos": True},
}


@scenario
def a_chat_completion_has_choices_and_logprobs(server: Server) -> None:
    done = server.strict.chat.completions.create(**ASKED, n=2, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in done.choices] == [0, 1]
    for choice in done.choices:
        assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert "".join(one.token for one in choice.logprobs.content) == choice.message.content
        assert all(len(one.top_logprobs) == 2 for one in choice.logprobs.content)
    assert done.usage is not None
    assert done.usage.completion_tokens == 20


@scenario
def a_chat_completion_is_streamed_as_it_would_be_whole(server: Server) -> None:
    whole = server.strict.chat.completions.create(**ASKED)
    chunks = list(
        server.strict.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
    )
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert deltas[0].delta.role == "assistant"
    assert "".join(one.delta.content or "" for one in deltas) == whole.choices[0].message.content
    assert [one.finish_reason for one in deltas if one.finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    plain = list(server.strict.chat.completions.create(**ASKED, stream=True))
    assert all(chunk.usage is None for chunk in plain)


@scenario
def a_message_can_be_sent_back_as_it_came(server: Server) -> None:
    first = server.strict.chat.completions.create(**ASKED)
    turns = [*ASKED["messages"], first.choices[0].message, {"role": "user", "content": "And?"}]
    again = server.strict.chat.completions.create(**ASKED | {"messages": turns})
    assert again.usage is not None
    assert first.usage is not None
    assert again.usage.prompt_tokens > first.usage.total_tokens


@scenario
def a_model_without_a_chat_template_says_so(server: Server) -> None:
    with refused(BadRequestError, "no_chat_template", "model"):
        server.strict.chat.completions.create(**ASKED | {"model": "starter"})
