"""A JSON array of objects read from a stream in bounded memory, as `lines` reads JSON Lines."""

import codecs
from collections.abc import Iterator
from typing import Any, BinaryIO

from jobs import strict_json
from jobs.lines import LONGEST, Flaw
from jobs.strict_json import NotStrict, Unfinished

_BLOCK = 262_144
_CODE = "invalid_json"


class _Broken(Exception):
    """The array cannot be read on; carries the flaw."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


def objects(stream: BinaryIO, longest: int = LONGEST) -> Iterator[tuple[int, dict[str, Any] | Flaw]]:
    """Each element with the number of the line on which it begins, or what is wrong with it.

    After JSON that cannot be read nothing follows, for nobody knows where the next element would begin.
    """
    text = _Window(stream)
    try:
        text.expect("[")
        if closed := text.peek() == "]":
            text.expect("]")
        while not closed:
            text.peek()
            yield text.line, text.element(longest)
            closed = text.expect(",]") == "]"
        text.end()
    except _Broken as broken:
        yield broken.flaw.line or 1, broken.flaw


class _Window:
    """The part of the stream that is looked at."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self.at, self.line = "", 0, 1
        self._ended = False

    def peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            while self.at < len(self._text):
                found = self._text[self.at]
                if found not in strict_json.BLANK:
                    return found
                self.line += found == "\n"
                self.at += 1
            if not self._more():
                return ""

    def expect(self, wanted: str) -> str:
        """Go behind the next character that is no blank, which must be one of `wanted`."""
        found = self.peek()
        if not found or found not in wanted:
            either = " or ".join(f"'{one}'" for one in wanted)
            got = f"'{found}'" if found else "the end"
            raise _Broken(
                Flaw(_CODE, f"The array is not JSON: {either} should stand here, not {got}.", self.line)
            )
        self.at += 1
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if found := self.peek():
            raise _Broken(Flaw(_CODE, f"Nothing may follow the array, but '{found}' does.", self.line))

    def element(self, longest: int) -> dict[str, Any] | Flaw:
        """Go behind the element that begins here."""
        line = self.line
        while True:
            try:
                value, end = strict_json.parse_from(self._text, self.at)
                break
            except Unfinished as error:
                if len(self._text) - self.at > longest or not self._more():
                    where = line + self._text.count("\n", self.at, error.at)
                    raise _Broken(Flaw(_CODE, error.about("The element"), where)) from None
            except NotStrict as error:
                raise _Broken(Flaw(error.code, error.about("The element"), line, error.param)) from None
        begin, self.at = self.at, end
        self.line += self._text.count("\n", begin, end)
        if end - begin > longest:
            return Flaw("line_too_long", f"The element is longer than {longest} characters.", line)
        return value if isinstance(value, dict) else Flaw(_CODE, "The element is not a JSON object.", line)

    def _more(self) -> bool:
        """Read on, twice as far each time an element does not end; False: there is no more."""
        if self._ended:
            return False
        rest = self._text[self.at :]
        raw = self._stream.read(max(_BLOCK, len(rest)))
        self._ended = not raw
        try:
            self._text, self.at = rest + self._decoder.decode(raw, final=self._ended), 0
        except UnicodeDecodeError as error:
            where = self.line + rest.count("\n") + raw.count(b"\n", 0, error.start)
            raise _Broken(Flaw("invalid_utf8", "The line is not UTF-8. Send UTF-8.", where)) from None
        return True
