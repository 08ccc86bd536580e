"""The only place that runs a model's chat template: in a sandbox, with what transformers would give it."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_KEPT = 64  # compiled templates


class TemplateRefusal(Exception):
    """The template does not take these messages; the text says why, in its author's words."""


def render(
    template: str, messages: Sequence[Mapping[str, str]], eos_token: str, answered: bool = False
) -> str:
    """The text that a model continues with its answer to the messages; `answered`: the last one is an answer.

    Raises:
        TemplateRefusal: it refuses them, or is broken.
    """
    try:
        return _compiled(template).render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=not answered,
            eos_token=eos_token,
        )
    except Exception as error:  # a template comes with a model from anywhere and may raise whatever it likes
        raise TemplateRefusal(" ".join(str(error).split())) from error


class _Generation(Extension):
    """`{% generation %}`, in which templates wrap what is learned from: to us it is nothing but its body."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refused(message: str) -> NoReturn:
    raise TemplateError(message)


def _as_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    """Without jinja's escapes, which are for web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _now(how: str) -> str:
    return datetime.now().astimezone().strftime(how)


def _environment() -> ImmutableSandboxedEnvironment:
    """A template sees nothing but what it is given."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _as_json
    given: dict[str, Callable[..., str]] = {"raise_exception": _refused, "strftime_now": _now}
    made.globals.update(given)
    return made


_compiled = lru_cache(maxsize=_KEPT)(_environment().from_string)
