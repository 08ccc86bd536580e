"""Requests that are small to send and dear to serve: each has a bound, and says so."""

import time
from typing import Any

import pytest
from tokenizers import Tokenizer

from jobs import chat_template
from jobs.chat_template import TemplateRefusal
from jobs.database import Database
from tests.conftest import ROOT
from tests.web.conftest import Caller, rows

CHAT = {"model": "org/chat", "messages": [{"role": "user", "content": "d"}]}
MANY: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": "d", "n": 10**9}, "n"),
    ("/v1/completions", {"prompt": "d", "best_of": 10**9}, "best_of"),
    ("/v1/completions", {"prompt": ["d"] * 100_000}, "prompt"),
    ("/v1/completions", {"prompt": [[1] * 200_000]}, "prompt"),
    ("/v1/completions", {"prompt": "d", "max_tokens": 10**9}, "max_tokens"),
    ("/v1/completions", {"prompt": "d", "stop": ["x"] * 1000}, "stop"),
    ("/v1/completions", {"prompt": "d", "stop": "x" * 100_000}, "stop[0]"),
    ("/v1/completions", {"prompt": "d", "logit_bias": {str(one): 1 for one in range(50_000)}}, "logit_bias"),
    ("/v1/completions", {"prompt": "d", "logprobs": 300}, "logprobs"),
    ("/v1/completions", {"prompt": "d", "num_beams": 1000}, "num_beams"),
    ("/v1/completions", {"prompt": "d", "bad_words": ["x"] * 10_000}, "bad_words"),
    ("/v1/completions", {"prompt": "d", "stop_token_ids": list(range(300)) * 100}, "stop_token_ids"),
    ("/v1/responses", {"input": "d" * 3_000_000}, "input"),
    ("/v1/responses", {"input": [{"role": "user", "content": "d"}] * 50_000}, "input"),
    ("/v1/responses", {"input": "d", "metadata": {str(one): "" for one in range(10_000)}}, "metadata"),
    ("/v1/chat/completions", {"messages": CHAT["messages"] * 50_000}, "messages"),
    ("/v1/chat/completions", {"messages": CHAT["messages"], "top_logprobs": 10**6}, "top_logprobs"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param"), MANY, ids=[f"{one[0][4:]} {one[2]}" for one in MANY])
def test_whatever_multiplies_work_has_a_most(
    caller: Caller, offered: Database, path: str, body: dict[str, Any], param: str
) -> None:
    model = "org/chat" if "chat" in path else "starter"
    began = time.process_time()
    answer = caller.post(path, model=model, **body)
    assert answer.status_code == 400, answer.text
    assert answer.get_json()["error"]["param"] == param
    assert len(answer.text) < 1000
    assert time.process_time() - began < 3, "seconds of the processor, for a no"
    assert rows(offered) == 0


PATTERNS: list[tuple[str, Any]] = [
    ("regex", "(a+)+$"),
    ("guided_regex", "(a+)+$"),
    ("guided_json", {}),
    ("guided_grammar", "root ::= root"),
    ("guided_choice", ["a"]),
    ("grammar", "root ::= root"),
    ("structured_outputs", {"regex": "(a+)+$"}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"pattern": "(a+)+$"}}}),
    ("logits_processors", ["os.system"]),
    ("chat_template", "{% for i in range(10**9) %}{% endfor %}"),
    ("chat_template_kwargs", {}),
    ("tools", [{"type": "function", "function": {"name": "a", "parameters": {"pattern": "(a+)+$"}}}]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), PATTERNS)
def test_no_request_brings_a_pattern_a_grammar_or_a_template(
    caller: Caller, offered: Database, field: str, value: Any
) -> None:
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": "starter", "prompt": "d"}),
    ):
        answer = caller.post(path, **body, **{field: value})
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, field)
    assert rows(offered) == 0


TEXTS = {
    "one letter": "a",
    "blanks": " ",
    "line ends": "\n",
    "marks": "'s't'd",
    "other alphabets": "\U0001f468‍\U0001f469",
    "combining": "ä̈",
    "figures": "1",
    "blanks before a letter": "  \t x",
}


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_is_dear_to_cut_into_tokens(name: str) -> None:
    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "starter" / "tokenizer.json"))
    longest = 131_072  # characters: beyond them GPT-2's context is full for certain, and web does not count
    text = (TEXTS[name] * longest)[:longest]
    began = time.process_time()
    tokenizer.encode_batch_fast([text], add_special_tokens=False)
    assert time.process_time() - began < 3


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ raise_exception.__globals__ }}",
    "{% set x = messages.append('a') %}{{ x }}",
    "{{ '%s'|format(messages.__init__.__globals__) }}",
    "{{ ('a' * 10)|attr('__class__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_does_not_leave_its_sandbox(template: str) -> None:
    said = ""
    try:
        said = chat_template.render(template, [{"role": "user", "content": "d"}], "")
    except TemplateRefusal:
        return
    assert not any(word in said for word in ("class", "module", "root:", "uid=", "function"))


def test_a_message_is_never_a_template(caller: Caller) -> None:
    said = chat_template.render("{{ messages[0].content }}", [{"role": "user", "content": "{{ 7 * 7 }}"}], "")
    assert said == "{{ 7 * 7 }}"
