"""JSON Lines read from a stream in bounded memory: whatever a line holds, it costs no more than its cap."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from jobs import strict_json
from jobs.strict_json import NotStrict

LONGEST = 4_000_000
"""Bytes of a line, unless told otherwise."""

_BLOCK = 65_536
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a line (the first is 1) or, without one, with the whole; OpenAI's fields."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def row(self) -> dict[str, Any]:
        """As a batch's `errors.data` shows it, and as `files.errors` keeps it."""
        return asdict(self)


def read(stream: BinaryIO, longest: int = LONGEST) -> Iterator[tuple[int, bytes | Flaw]]:
    """Each line with its number, without its end; a line over `longest` bytes is a flaw instead.

    Lines end with LF or CRLF. A byte order mark is taken off the first line. Blank lines at the end are
    left out; one before other lines comes as b"".
    """
    blank: int | None = None  # where a run of blank lines began
    for number, line in enumerate(_split(stream, longest), start=1):
        if line is None:
            content: bytes | Flaw = Flaw("line_too_long", f"The line is longer than {longest} bytes.", number)
        else:
            content = (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r")
        if content == b"":
            blank = blank or number
            continue
        if blank is not None:
            yield from ((skipped, b"") for skipped in range(blank, number))
            blank = None
        yield number, content


def objects(stream: BinaryIO, longest: int = LONGEST) -> Iterator[tuple[int, dict[str, Any] | Flaw]]:
    """Each line as a strict JSON object (see `strict_json`), or what is wrong with it."""
    for number, line in read(stream, longest):
        yield number, line if isinstance(line, Flaw) else parse(number, line)


def parse(number: int, line: bytes) -> dict[str, Any] | Flaw:
    """One line as a strict JSON object, or what is wrong with it."""
    if not line:
        return Flaw("invalid_json_line", "The line is blank. Leave it out.", number)
    if line.startswith(_BOM):
        return Flaw("invalid_json_line", "The line begins with a byte order mark. Leave it out.", number)
    if b"\0" in line:
        said = "The line contains NUL bytes. Send JSON in UTF-8."
        return Flaw("invalid_json_line", said, number)
    try:
        value = strict_json.parse(line)
    except NotStrict as error:
        code = "invalid_json_line" if error.code == "invalid_json" else error.code
        return Flaw(code, error.about("The line"), number, error.param)
    if not isinstance(value, dict):
        return Flaw("invalid_json_line", "The line is not a JSON object.", number)
    return value


def _split(stream: BinaryIO, longest: int) -> Iterator[bytes | None]:
    """The lines without their LF; None for one that is too long."""
    begun: list[bytes] = []  # of a line that goes on in the next block
    size = 0
    while block := stream.read(_BLOCK):
        first, *others = block.split(b"\n")
        size += len(first)
        if size <= longest:
            begun.append(first)
        if not others:
            continue
        yield b"".join(begun) if size <= longest else None
        yield from (line if len(line) <= longest else None for line in others[:-1])
        begun, size = others[-1:], len(others[-1])
    if size:
        yield b"".join(begun) if size <= longest else None
