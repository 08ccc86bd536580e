"""JSON Lines and JSON arrays from a stream: right where they are right, and cheap where they are bombs."""

import io
import json
import threading
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from jobs import elements, lines, strict_json
from jobs.lines import Flaw
from jobs.strict_json import NotStrict

MB = 1_000_000


class Blocks(io.RawIOBase):
    """One block again and again, then an end: a large file that is nowhere."""

    def __init__(self, block: bytes, times: int, end: bytes = b"") -> None:
        self._block, self._left, self._end = block, times, end

    def read(self, _size: int = -1) -> bytes:
        if self._left:
            self._left -= 1
            return bytes(bytearray(self._block))  # each takes memory of its own
        end, self._end = self._end, b""
        return end


class Peak:
    """The most memory that a process has meanwhile."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._done = process, threading.Event()
        self._before = self._most = process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)

    @property
    def megabytes(self) -> float:
        """Beyond what it had before."""
        return (self._most - self._before) / MB

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, self._process.memory_info().rss)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def all_of(raw: bytes, longest: int = lines.LONGEST) -> list[tuple[int, Any]]:
    return list(lines.objects(io.BytesIO(raw), longest))


def the_flaw(raw: bytes) -> Flaw:
    """The flaw of the second of three lines, of which the others are fine."""
    (first, a), (second, flaw), (third, c) = all_of(b'{"a":1}\n' + raw + b'\n{"c":3}')
    assert (first, a, second, third, c) == (1, {"a": 1}, 2, 3, {"c": 3})
    assert isinstance(flaw, Flaw)
    assert (flaw.line, flaw.message[-1]) == (2, ".")
    return flaw


BAD = {
    "no JSON": (b"hello", "Expecting value at character 1"),
    "half an object": (b'{"a":', "Expecting value"),
    "two objects": (b"{} {}", "Extra data: '{}'"),
    "an array": (b"[1]", "not a JSON object"),
    "NUL": (b'{"a":"\0"}', "NUL bytes"),
    "UTF-16": ('{"a":1}'.encode("utf-16-be"), "NUL bytes"),
    "BOM": (b"\xef\xbb\xbf{}", "byte order mark"),
    "Latin-1": (b'{"a":"\xe9"}', "not UTF-8"),
    "surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
    "NaN": (b'{"a":NaN}', "NaN is not JSON"),
    "Infinity": (b'{"a":-Infinity}', "-Infinity is not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "nested too deeply"),
    "blank": (b"", "The line is blank"),
    "blanks": (b"  \t\r", "The line is blank"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_the_others_are_read(name: str) -> None:
    raw, words = BAD[name]
    flaw = the_flaw(raw)
    assert words in flaw.message
    assert (flaw.code, flaw.param) == ("invalid_json_line", None)


UNKEPT = {
    "duplicate key": (b'{"a":1,"a":2}', "duplicate_parameter", "a"),
    "lone surrogate": (b'{"a":["\\ud800"]}', "invalid_value", "a[0]"),
    "lone surrogate in a name": (b'{"\\ud800":1}', "invalid_value", None),
    "escaped NUL": (b'{"a":{"b":"\\u0000"}}', "invalid_value", "a.b"),
}


@pytest.mark.parametrize("name", UNKEPT)
def test_json_that_is_ambiguous_or_cannot_be_kept_is_refused_by_its_field(name: str) -> None:
    raw, code, param = UNKEPT[name]
    flaw = the_flaw(raw)
    assert (flaw.code, flaw.param) == (code, param)


def test_what_lines_may_end_with_and_a_mark_at_the_beginning() -> None:
    assert all_of(b'\xef\xbb\xbf{"a":1}\r\n{"b":"\xc3\xa9"}\n\r\n\n  \n') == [(1, {"a": 1}), (2, {"b": "é"})]
    assert all_of(b"") == all_of(b"\n\n") == []
    assert all_of(b"{}") == [(1, {})]
    assert all_of('{"a":"\u2028\u0085"}\n'.encode()) == [(1, {"a": "\u2028\u0085"})], "these end no line"


def test_a_line_is_read_up_to_its_cap_and_not_beyond() -> None:
    long = json.dumps({"a": "x" * 90}).encode()
    [(_, whole), (_, flaw), (_, after)] = all_of(long + b"\n " + long + b"\n{}", len(long))
    assert (whole, after) == (json.loads(long), {})
    assert isinstance(flaw, Flaw)
    assert flaw.code == "line_too_long"


@given(st.lists(st.binary(max_size=12).filter(lambda one: b"\n" not in one), max_size=8), st.integers(1, 9))
@examples(max_examples=200, deadline=None)
def test_lines_do_not_depend_on_how_the_stream_is_cut(parts: list[bytes], block: int) -> None:
    raw = b"\n".join(parts)

    class Cut(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            return super().read(block)

    longest = 8
    expected = [part if len(part) <= longest else None for part in parts]
    if expected and expected[-1] == b"":
        expected.pop()  # a file that ends with LF has no further line
    assert list(lines._split(Cut(raw), longest)) == expected


def growth(work: Any) -> float:
    """MB by which the process grows meanwhile, at its peak."""
    with Peak(psutil.Process()) as peak:
        for _ in work:
            pass
    return peak.megabytes


def test_a_line_of_a_gigabyte_costs_no_memory() -> None:
    stream = Blocks(b"x" * 65_536, 16_384, b"\n{}")
    found: list[tuple[int, Any]] = []
    assert growth(found.append(one) for one in lines.objects(stream)) < 30
    [(_, flaw), (_, after)] = found
    assert (flaw.code, after) == ("line_too_long", {})


def test_ten_million_lines_cost_no_memory() -> None:
    assert growth(lines.read(Blocks(b"{}\n" * 20_000, 500))) < 30
    assert growth(lines.read(Blocks(b"\n" * 65_536, 15, b"{"))) < 30


def test_a_body_and_a_line_are_parsed_alike() -> None:
    assert strict_json.parse(b' {"a": [1, 2.5e999, true, null, "\\ud83d\\ude00"]} \n') == {
        "a": [1, 1.7976931348623157e308, True, None, "😀"]
    }
    for raw in (b"", b"  ", b"{", b"nul", b'"\\x"', b"01", b"\xff"):
        with pytest.raises(NotStrict) as caught:
            strict_json.parse(raw)
        assert caught.value.about("The body").startswith("The body is ")


def elements_of(raw: bytes, longest: int = lines.LONGEST) -> list[tuple[int, Any]]:
    return list(elements.objects(io.BytesIO(raw), longest))


def test_an_array_is_read_element_by_element_with_their_lines() -> None:
    assert elements_of(b'\xef\xbb\xbf [\n{"a":\n1},\n\n{"b":"\\n"} , {}\n]\n') == [
        (2, {"a": 1}),
        (5, {"b": "\n"}),
        (5, {}),
    ]
    assert elements_of(b" [ ] ") == []


BROKEN = {
    "no comma": (b'[{},\n{} {"a":1}]', 2, "',' or ']' should stand here, not '{'"),
    "no end": (b"[{},\n{}\n", 3, "not the end"),
    "cut off": (b'[{},\n{"a":\n', 3, "Expecting value"),
    "comma at the end": (b"[{},\n]", 2, "Expecting value"),
    "more after it": (b"[{}]\n{}", 2, "Nothing may follow"),
    "NaN": (b'[{},\n\n{"a":NaN}]', 3, "NaN"),
    "duplicate key": (b'[{},\n{"a":1,\n"a":2}]', 2, "'a' is given twice"),
    "Latin-1": (b'[{},\n{"a":"\xe9"}]', 2, "not UTF-8"),
    "deep": (b"[{},\n" + b"[" * 100_000, 2, "nested too deeply"),
    "bad in the middle of an element": (b'[{"a":1,\n"b":2,\n"c":x}]', 3, "Expecting value"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_array_ends_with_its_line(name: str) -> None:
    raw, line, words = BROKEN[name]
    number, flaw = elements_of(raw)[-1]
    assert isinstance(flaw, Flaw)
    assert (number, flaw.line) == (line, line), flaw
    assert words in flaw.message


def test_elements_that_are_no_objects_are_flaws_among_others() -> None:
    found = elements_of(b'[1, {"a":"' + b"x" * 50 + b'"}, {}]', 40)
    assert [one if isinstance(one, dict) else one.code for _, one in found] == [
        "invalid_json",
        "line_too_long",
        {},
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of, max_size=3)
)


@given(
    st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=5),
    st.integers(1, 40),
    st.booleans(),
)
@examples(max_examples=100, deadline=None)
def test_an_array_does_not_depend_on_how_the_stream_is_cut(
    records: list[dict[str, Any]], block: int, wide: bool
) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(block)

    kept = [
        record for record in records if "\\u0000" not in (text := json.dumps(record)) and "\\ud" not in text
    ]
    raw = json.dumps(kept, indent=1 if wide else None, ensure_ascii=not wide).encode()
    assert [found for _, found in elements.objects(Cut(raw))] == kept


def test_a_huge_array_and_a_huge_element_cost_no_memory() -> None:
    many = Blocks(b'{"a": "b", "c": [1, 2]},\n' * 4000, 100, b"{}]")
    assert growth(elements.objects(Chained(b"[", many))) < 60
    one = Chained(b'[{"a": "', Blocks(b"x" * 262_144, 4000))
    assert growth(elements.objects(one)) < 100


class Chained(io.RawIOBase):
    """A beginning, and then another stream."""

    def __init__(self, begin: bytes, rest: io.RawIOBase) -> None:
        self._begin, self._rest = begin, rest

    def read(self, size: int = -1) -> bytes:
        begin, self._begin = self._begin, b""
        return begin or self._rest.read(size) or b""
