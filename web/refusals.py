"""What is said about a request that does not parse: pydantic's findings in OpenAI's words and codes."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_EXPECTED = {
    "string_type": "a string",
    "bool_type": "a boolean",
    "bool_parsing": "true or false",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
_KINDS = {str: "a string", bool: "a boolean", int: "an integer", float: "a decimal number", list: "an array"}
_BOUNDS = {
    "greater_than_equal": (">=", "ge", "below_min_value"),
    "greater_than": (">", "gt", "below_min_value"),
    "less_than_equal": ("<=", "le", "above_max_value"),
    "less_than": ("<", "lt", "above_max_value"),
}
_A_SLIP = 0.75  # names less alike than this are two names, not one with a slip
_LONGEST_ECHO = 60  # characters of a value that a message repeats


@dataclass(frozen=True)
class Refusal:
    """One finding: a sentence that says what to send instead, the parameter, and OpenAI's code."""

    message: str
    param: str
    code: str


def unknown(name: str, known: Collection[str]) -> Refusal:
    """A parameter that is not one of the `known`."""
    name = _cut(name)  # it may be megabytes long
    near = difflib.get_close_matches(name, known, n=1, cutoff=_A_SLIP)
    hint = f"Did you mean '{near[0]}'?" if near else "Leave it out."
    return Refusal(f"Unknown parameter: '{name}'. {hint}", name, "unknown_parameter")


def foreign(
    name: str, value: object, known: Collection[str], unsupported: Mapping[str, Sequence[object]]
) -> Refusal | None:
    """A parameter that is none of the `known`; of those `unsupported` the values that change nothing pass."""
    if name not in unsupported:
        return unknown(name, known)
    if is_among(value, unsupported[name]):
        return None
    return Refusal(f"'{name}' is not supported yet. Leave it out.", name, "unsupported_parameter")


def is_among(value: object, values: Iterable[object]) -> bool:
    """Whether a JSON value is one of these; true is not 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)


def first(error: ValidationError) -> Refusal:
    """The first finding in an error."""
    found = error.errors(include_url=False)[0]
    param, kind, context = _path(found["loc"]), found["type"], found.get("ctx", {})
    if kind in _EXPECTED:
        wanted = f"expected {_EXPECTED[kind]}, but got {_kind(found['input'])} instead."
        return Refusal(f"Invalid type for '{param}': {wanted}", param, "invalid_type")
    if kind in _BOUNDS:
        return _out_of_range(param, kind, context, found["input"])
    return _plain(param, kind, context, found)


def _plain(param: str, kind: str, context: dict[str, Any], found: ErrorDetails) -> Refusal:
    match kind:
        case "missing":
            return Refusal(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
        case "extra_forbidden":
            return unknown(param, ())
        case "literal_error":
            said = f"Invalid value for '{param}': {shown(found['input'])}."
            return Refusal(f"{said} Send {context['expected']}.", param, "invalid_value")
        case "string_too_short":
            return Refusal(f"'{param}' is empty. Send at least one character.", param, "empty_string")
        case "string_too_long":
            said = f"'{param}' is too long. Send at most {context['max_length']} characters."
            return Refusal(said, param, "string_above_max_length")
        case "too_short":
            return Refusal(f"'{param}' is empty. Send at least one item.", param, "empty_array")
        case "too_long":
            said = f"'{param}' has too many items. Send at most {context['max_length']}."
            return Refusal(said, param, "array_above_max_length")
        case "finite_number":
            return Refusal(f"'{param}' is not finite. Send a finite number.", param, "invalid_value")
        case _:  # a finding of ours: its kind is the code
            return Refusal(found["msg"].replace("{param}", param), param, kind)


def _out_of_range(param: str, kind: str, context: dict[str, Any], got: object) -> Refusal:
    sign, key, code = _BOUNDS[kind]
    number = "integer" if isinstance(context[key], int) else "decimal"
    bound = f"{context[key]:g}" if number == "decimal" else str(context[key])
    where = "below minimum" if sign.startswith(">") else "above maximum"
    said = f"Invalid '{param}': {number} {where} value. Expected a value {sign} {bound}"
    return Refusal(f"{said}, but got {shown(got)} instead.", param, f"{number}_{code}")


def _path(location: Sequence[str | int]) -> str:
    """OpenAI's way to name a place: input[0].content[1].text."""
    path = ""
    for step in location:
        if step == "[key]":  # pydantic's mark for the key of a mapping rather than its value
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{_cut(step)}" if path else _cut(step)
    return path


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), "an object")


def shown(value: object) -> str:
    """A value as a message repeats it."""
    return _cut(repr(value)) if isinstance(value, str | int | float) else _kind(value)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ECHO else f"{text[: _LONGEST_ECHO - 3]}..."
