"""A reader of one job's tokens, whatever becomes of the attempts at it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from tokenizers import Tokenizer

from jobs.records import JobRecord
from jobs.states import State
from web.deltas import Deltas
from web.following import Entry
from web.reader import Changed, Delta, Reader

TEXT = "def name(self): return value"


def record(state: State, tokens: list[int] | None, text: str, finish_reason: str | None) -> JobRecord:
    sequence = {"text": text, "tokens": tokens, "finish_reason": finish_reason}
    given: dict[str, Any] = dict.fromkeys(JobRecord.__dataclass_fields__)
    output = None if tokens is None else {"sequences": [sequence]}
    return JobRecord(
        **given | {"id": "resp_", "state": state, "created_at": datetime.now(UTC), "output": output}
    )


class House:
    """A tokenizer, some tokens, and a reader of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokens: list[int] = tokenizer.encode(TEXT).ids
        self.tokenizer = tokenizer
        self.reader = Reader(lambda: Deltas(tokenizer, ()))

    def hear(self, index: int, end: int, attempt: int = 1, tokens: list[int] | None = None) -> list[Delta]:
        said = (tokens or self.tokens)[index:end]
        return list(self.reader.hear([Entry(attempt, 0, index, said, None)]))

    def close(self, state: State = State.SUCCEEDED, end: int | None = None) -> list[Delta]:
        tokens = self.tokens[:end]
        reason = "stop" if state is State.SUCCEEDED else None
        return list(self.reader.close(record(state, tokens, self.tokenizer.decode(tokens), reason)))


@pytest.fixture
def house(tokenizer: Tokenizer) -> House:
    return House(tokenizer)


def text(*deltas: list[Delta]) -> str:
    return "".join(delta.text for each in deltas for delta in each)


def test_the_row_adds_what_was_not_heard(house: House) -> None:
    first = house.hear(0, 3)
    assert text(first) == house.tokenizer.decode(house.tokens[:3])
    rest = house.close()
    assert text(first, rest) == TEXT
    assert [delta.tokens for delta in (*first, *rest) if delta.tokens] == [[token] for token in house.tokens]
    assert [delta.finish_reason for delta in rest] == [*[None] * (len(rest) - 1), "stop"]


def test_pieces_do_not_depend_on_how_the_tokens_came(house: House, tokenizer: Tokenizer) -> None:
    one, other = house, House(tokenizer)
    single = [delta for index in range(len(house.tokens)) for delta in one.hear(index, index + 1)]
    assert single == other.hear(0, len(other.tokens))
    assert one.close() == other.close()


def test_a_new_attempt_says_what_is_known_and_then_more(house: House) -> None:
    first = house.hear(0, 4)
    assert house.hear(0, 2, attempt=2) == []
    more = house.hear(2, 6, attempt=2)
    assert text(first, more, house.close()) == TEXT


def test_a_new_attempt_that_says_something_else_is_noticed(house: House) -> None:
    house.hear(0, 4)
    with pytest.raises(Changed):
        house.hear(0, 4, attempt=2, tokens=house.tokens[::-1])


def test_a_reader_who_comes_late_hears_only_the_newest_attempt(house: House) -> None:
    old, new = house.tokens[::-1], house.tokens
    entries = [Entry(1, 0, 0, old, None), Entry(2, 0, 0, new[:2], None), Entry(1, 0, 2, old[:1], None)]
    assert text(list(house.reader.hear(entries)), house.close()) == TEXT


def test_a_row_that_says_something_else_is_noticed(house: House) -> None:
    house.hear(0, 3, tokens=house.tokens[::-1])
    with pytest.raises(Changed):
        house.close()


def test_what_redis_lost_waits_for_the_row(house: House) -> None:
    first = house.hear(0, 2)
    assert house.hear(4, 6) == []
    assert text(first, house.close()) == TEXT


def test_a_cancelled_attempt_may_know_less_than_was_said(house: House) -> None:
    house.hear(0, 5)
    assert house.close(State.CANCELLED, end=3) == []
    assert list(house.reader.close(record(State.FAILED, None, "", None))) == []
