"""A chat template writes what transformers would write with it, and can do no harm."""

import json
from datetime import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from jobs.chat_template import TemplateRefusal, render

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "  Grüße 😀\n"},
    {"role": "assistant", "content": "Hi.\n\n"},
    {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
]
CHATML = (
    "{% for message in messages %}\n"
    "    {%- if loop.first and message['role'] != 'system' %}\n"
    "        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
TEMPLATES = {
    "chatml": CHATML,
    "blocks on lines of their own": "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n"
    "  {% endif %}\n{% endfor %}",
    "tokens": "{% for m in messages %}{{ bos_token }}{{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "no tools": "{% if tools is not none and tools %}{{ tools }}{% endif %}{% if documents %}d{% endif %}"
    "{{ messages | length }}{{ tools is none }}{{ documents is none }}{{ tools is defined }}",
    "JSON": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}"
    "{% endfor %}",
    "what is learned": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "a namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}",
    "a macro": "{% macro say(m) %}[{{ m.content.strip() }}]{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% endfor %}",
    "slices": "{% for m in messages[1:] %}{{ m['content'][::-1] }}{{ m.content.split(' ')[-1] }}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_writes_what_transformers_writes(name: str) -> None:
    (theirs,), _ = render_jinja_template(
        [MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=True, eos_token="</s>"
    )
    assert render(TEMPLATES[name], MESSAGES, "</s>") == theirs


def test_what_a_message_says_is_never_run() -> None:
    said = "{{ raise_exception('run') }}{% for x in y %}"
    assert said in render(CHATML, [{"role": "user", "content": said}], "")


def test_it_knows_what_day_it_is() -> None:
    today = {datetime.now().strftime("%Y-%m-%d")}
    said = render("{{ strftime_now('%Y-%m-%d') }}", [], "")
    assert said in today | {datetime.now().strftime("%Y-%m-%d")}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('Roles must\nalternate') }}", "Roles must alternate"),
        ("{{ messages[0].content + 1 }}", "concatenate str"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ nothing.more }}", "'nothing' is undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(99999999) %}x{% endfor %}", "Range too big"),
        ("{% include 'x' %}", "no loader"),
    ],
)
def test_a_template_that_fails_says_so_in_its_own_words(template: str, words: str) -> None:
    with pytest.raises(TemplateRefusal, match=words) as refusal:
        render(template, MESSAGES, "")
    assert "\n" not in str(refusal.value)


def test_special_tokens_that_come_with_it_leave_its_line_breaks_alone() -> None:
    named: Any = json.dumps('<"s">')
    assert render(f"{{% set bos_token = {named} +%}}\n  {{{{ bos_token }}}}", [], "") == '\n  <"s">'
