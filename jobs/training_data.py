"""The forms that training data may have, told apart by their content, and each example checked."""

import codecs
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, BinaryIO

from jobs import elements, lines
from jobs.lines import Flaw

_HEAD = 65_536
_MOST_MESSAGES = 256  # of one example: each answer is rendered with all that stands before it
_BLOCK = 131_072
_TEXT_NAMES = (".txt", ".md")
_JSON_NAMES = (".json", ".jsonl", ".ndjson")
_ROLES = ("system", "developer", "user", "assistant")


class Layout(StrEnum):
    """What one example is made of."""

    TEXT = "text"  # {"text"}: all of it is learned
    COMPLETION = "completion"  # {"prompt", "completion"}: the completion is
    ALPACA = "alpaca"  # {"instruction", "input"?, "output"}: the output is
    CHAT = "chat"  # {"messages": [{"role", "content"}]}: what the assistant says is


_MARKS = {
    "messages": Layout.CHAT,
    "instruction": Layout.ALPACA,
    "prompt": Layout.COMPLETION,
    "text": Layout.TEXT,
}
"""The field that tells a layout; where there are several, the first of these."""


def is_plain_text(filename: str, head: bytes) -> bool:
    """Whether a file is one text rather than JSON, by its first bytes; a name that says so counts more."""
    name, begin = filename.lower(), head.removeprefix(codecs.BOM_UTF8).lstrip()
    if name.endswith(_JSON_NAMES):
        return False
    if name.endswith(_TEXT_NAMES):
        return True
    return not (begin.startswith(b"{") or (begin.startswith(b"[") and begin[1:].lstrip()[:1] in (b"{", b"]")))


def is_text(stream: BinaryIO, filename: str) -> bool:
    """As `is_plain_text`, of a stream, which is at its beginning and stays there."""
    head = stream.read(_HEAD)
    stream.seek(0)
    return is_plain_text(filename, head)


def layout_in(stream: BinaryIO, filename: str) -> Layout | None:
    """The layout of a file, whose first example decides; None if it has none. The stream begins anew."""
    if is_text(stream, filename):
        return Layout.TEXT
    first = next((record for _, record in _objects(stream) if isinstance(record, dict)), None)
    stream.seek(0)
    return None if first is None else layout_of(first)


def examples(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | Flaw]]:
    """Each example of a JSON array or of JSON Lines, whose layout is that of the first, with its line."""
    layout: Layout | None = None
    for number, record in _objects(stream):
        if isinstance(record, dict):
            layout = layout or layout_of(record)
            flaw = _flaw(record, layout, number)
            yield number, record if flaw is None else flaw
        else:
            yield number, record


def _objects(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | Flaw]]:
    head = stream.read(_HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    stream.seek(0)
    return elements.objects(stream) if head.startswith(b"[") else lines.objects(stream)


def layout_of(record: dict[str, Any]) -> Layout | None:
    """The layout that an example has by its fields; None if it has none of them."""
    return next((layout for field, layout in _MARKS.items() if field in record), None)


def text_blocks(stream: BinaryIO) -> Iterator[str | Flaw]:
    """A plain text in blocks; a flaw ends it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, raw = 1, b"-"
    while raw:
        raw = stream.read(_BLOCK)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            where = line + raw.count(b"\n", 0, error.start)
            yield Flaw("invalid_utf8", "The line is not UTF-8. Send UTF-8.", where)
            return
        if "\0" in text:
            where = line + text.count("\n", 0, text.index("\0"))
            yield Flaw("invalid_text", "The line contains NUL. Send text.", where)
            return
        line += text.count("\n")
        yield text


def _flaw(record: dict[str, Any], layout: Layout | None, number: int) -> Flaw | None:
    """What is wrong with an example; fields that its layout does not know are nobody's business."""
    if layout is None:
        said = "The example has none of the fields 'messages', 'instruction', 'prompt' and 'text'."
        return Flaw("unknown_format", said, number)
    match layout:
        case Layout.CHAT:
            return _flaw_of_chat(record, number)
        case Layout.ALPACA:
            blank = _not_text(record, "input", number, empty=True) if "input" in record else None
            return _not_text(record, "instruction", number) or blank or _not_text(record, "output", number)
        case Layout.COMPLETION:
            return _not_text(record, "prompt", number, empty=True) or _not_text(record, "completion", number)
        case Layout.TEXT:
            return _not_text(record, "text", number)


def _flaw_of_chat(record: dict[str, Any], number: int) -> Flaw | None:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        said = "'messages' must be an array with at least one message."
        return Flaw("invalid_type", said, number, "messages")
    if len(messages) > _MOST_MESSAGES:
        said = f"'messages' has {len(messages):,} messages; one example may have {_MOST_MESSAGES}. Split it."
        return Flaw("array_above_max_length", said, number, "messages")
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if not isinstance(message, dict):
            return Flaw("invalid_type", f"'{path}' must be an object.", number, path)
        if message.get("role") not in _ROLES:
            said = f"'{path}.role' must be one of {', '.join(_ROLES)}."
            return Flaw("invalid_value", said, number, f"{path}.role")
        if flaw := _not_text(message, "content", number, path=path):
            return flaw
        if message.get("weight", 1) not in (0, 1):
            return Flaw("invalid_value", f"'{path}.weight' must be 0 or 1.", number, f"{path}.weight")
    if not any(one["role"] == "assistant" and one.get("weight", 1) for one in messages):
        said = "No message is an answer to learn: 'messages' needs one whose role is assistant."
        return Flaw("no_answer", said, number, "messages")
    return None


def _not_text(
    record: dict[str, Any], field: str, number: int, empty: bool = False, path: str = ""
) -> Flaw | None:
    name = f"{path}.{field}" if path else field
    if field not in record:
        return Flaw("missing_required_parameter", f"'{name}' is missing.", number, name)
    if not isinstance(record[field], str):
        return Flaw("invalid_type", f"'{name}' must be a string.", number, name)
    if not empty and not record[field].strip():
        return Flaw("empty_string", f"'{name}' is empty.", number, name)
    return None
