"""JSON that means one thing to everybody and that PostgreSQL can keep: no NUL, no half characters."""

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

BLANK = " \t\r\n"
"""What may stand between the parts of JSON."""
_MOST_DIGITS = 300  # of an integer: still finite as a float
_LONGEST_ECHO = 100  # characters of a name that is repeated: names may be megabytes long


class NotStrict(ValueError):
    """Bytes that are no JSON, or JSON that means several things; `code` and `param` as in OpenAI's errors."""

    def __init__(self, said: str, *, param: str | None = None, code: str = "invalid_json") -> None:
        """`said` is a sentence in which {it} stands for the bytes."""
        super().__init__(said)
        self.said, self.param, self.code = said, param, code

    def about(self, it: str) -> str:
        """The sentence, about the bytes of this name."""
        return self.said.replace("{it}", it, 1)


def parse(raw: bytes) -> Any:
    """The value that these bytes are.

    Raises:
        NotStrict: they are none in UTF-8, or a name is given twice, or a text cannot be kept.
    """
    if not raw:
        raise NotStrict("{it} is empty.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise NotStrict("{it} is not UTF-8. Send JSON in UTF-8.") from None
    value, end = parse_from(text, 0)
    if rest := text[end:].strip(BLANK):
        raise NotStrict(f"{{it}} is not JSON (Extra data: {rest[:20]!r}).")
    return value


def parse_from(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start`, blanks before it apart, and where it ends.

    Raises:
        NotStrict: as `parse`.
        Unfinished: there is none up to the end of `text`; with more of it there may be.
    """
    while start < len(text) and text[start] in BLANK:
        start += 1
    try:
        value, end = _DECODER.raw_decode(text, start)
        if "\\u" in text[start:end]:  # only an escape can hide what UTF-8 itself cannot carry
            _refuse_unstorable(value, "")
    except NotStrict:
        raise
    except RecursionError:
        raise NotStrict("{it} is nested too deeply. Send a flatter object.") from None
    except json.JSONDecodeError as error:
        said = f"{{it}} is not JSON ({error.msg} at character {error.pos - start + 1})."
        raise Unfinished(said, at=error.pos) from None
    return value, end


class Unfinished(NotStrict):
    """No JSON, or none so far; it went wrong `at` this character."""

    def __init__(self, said: str, at: int) -> None:
        super().__init__(said)
        self.at = at


def _unambiguous(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = _cut(Counter(name for name, _ in pairs).most_common(1)[0][0])
        raise NotStrict(f"'{twice}' is given twice. Send it once.", param=twice, code="duplicate_parameter")
    return found


def _finite(text: str) -> float:
    """The number, or the largest of all: that is over every limit as well, and its field will say so."""
    number = float(text)
    return number if math.isfinite(number) else math.copysign(sys.float_info.max, number)


def _integer(text: str) -> int:
    """The number, or its first digits: those are over every limit as well, and its field will say so."""
    return int(text[:_MOST_DIGITS])


def _no_constant(name: str) -> NoReturn:
    raise NotStrict(f"{{it}} is not JSON ({name} is not JSON).")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unambiguous, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
)


def _refuse_unstorable(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_unstorable(name, path)
            _refuse_unstorable(item, _cut(f"{path}.{name}" if path else name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_unstorable(item, _cut(f"{path}[{index}]"))
    elif isinstance(value, str) and (hidden := _unstorable(value)):
        said = f"'{path or 'a name'}' contains {hidden}. Leave it out."
        raise NotStrict(said, param=path or None, code="invalid_value")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_ECHO else f"{name[:_LONGEST_ECHO]}..."


def _unstorable(text: str) -> str | None:
    if "\0" in text:
        return "the NUL character (\\u0000)"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return None
