"""`client.completions`."""

from typing import Any

from openai import BadRequestError

from tests.conformance.scenarios.registry import Server, refused, scenario

ASKED: Any = {"model": "starter", "max_tokens": 8, "seed": 3, "extra_body": {"ignore_eos": True}}


@scenario
def a_completion_has_choices_for_each_prompt(server: Server) -> None:
    done = server.strict.completions.create(**ASKED, prompt=["\ndef", "\nimport"], n=2, user="me")
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert all(choice.finish_reason == "length" for choice in done.choices)
    assert done.usage is not None
    assert done.usage.completion_tokens == 4 * 8
    assert done.id.startswith("cmpl-")
    assert done.system_fingerprint


@scenario
def a_completion_echoes_its_prompt_with_logprobs(server: Server) -> None:
    """With the lenient client: the first token has no probability, and no strict one takes that null."""
    whole = server.strict.completions.create(**ASKED, prompt="\nimport os", echo=True, best_of=2)
    done = server.lenient.completions.create(**ASKED, prompt="\nimport os", echo=True, logprobs=2)
    (choice,) = done.choices
    assert choice.text.startswith("\nimport os")
    assert whole.choices[0].text.startswith("\nimport os")
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert "".join(told.tokens) == choice.text
    assert told.token_logprobs is not None
    assert len(told.token_logprobs) == len(told.tokens) == len(told.text_offset or [])
    assert [place for place, one in enumerate(told.token_logprobs) if one is None] == [0]
    told = server.strict.completions.create(**ASKED, prompt="\nimport os", logprobs=1).choices[0].logprobs
    assert told is not None
    assert len(told.token_logprobs or []) == 8


@scenario
def tokens_can_be_the_prompt_and_stop_texts_and_biases_are_heard(server: Server) -> None:
    asked: Any = ASKED | {"max_tokens": 60, "prompt": [5, 6, 7], "logit_bias": {"9": -100}}
    done = server.strict.completions.create(
        **asked, stop=["e", "a"], presence_penalty=0.1, frequency_penalty=0.1
    )
    assert done.choices[0].finish_reason == "stop"
    assert not set("ea") & set(done.choices[0].text)
    with refused(BadRequestError, "string_above_max_length", "stop[0]"):
        server.strict.completions.create(**ASKED, prompt="a", stop="x" * 300)


@scenario
def a_completion_is_streamed_as_it_would_be_whole(server: Server) -> None:
    """With the lenient client: no strict one takes a chunk before the last, from OpenAI neither."""
    whole = server.lenient.completions.create(**ASKED, prompt="\ndef")
    chunks = list(
        server.lenient.completions.create(
            **ASKED, prompt="\ndef", stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.text for choice in texts) == whole.choices[0].text
    assert texts[-1].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
