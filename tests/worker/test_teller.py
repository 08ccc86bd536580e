"""What the teller puts into Redis for those who read tokens as they come."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from jobs import signals
from jobs.attempts import Claim
from jobs.database import Database
from jobs.inputs import Sampling
from jobs.settings import Settings
from jobs.signals import SAID, Listener
from tests.conftest import wait_for
from worker import teller
from worker.sequence import Logprob, Sequence
from worker.teller import Teller
from worker.work import _tellable

EOS = 9


class Talk:
    """Two jobs whose sequences say what a test lets them say."""

    def __init__(self) -> None:
        self.streaming = threading.Event()
        self.sequences = [Sequence([1], Sampling(max_tokens=9, seed=0), index=number) for number in (0, 1)]
        self.present = True

    def streamed(self) -> list[tuple[Claim, Sequence, int]]:
        names = zip(("resp_a", "resp_b"), self.sequences, strict=True)
        return [(Claim(name, 2), one, len(one.tokens)) for name, one in names] if self.present else []


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def client(settings: Settings, database: Database) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(settings.redis) as client:
        yield client


def start(talk: Talk, url: str) -> tuple[Teller, threading.Thread]:
    made = Teller(url, talk)
    thread = threading.Thread(target=made.run)
    thread.start()
    talk.streaming.set()
    return made, thread


@pytest.fixture
def told(talk: Talk, settings: Settings, client: "redis.Redis") -> Iterator[Teller]:
    made, thread = start(talk, settings.redis)
    yield made
    made.stop()
    thread.join()
    made.close()


def entries(client: "redis.Redis", job: str) -> list[dict[bytes, bytes]]:
    found: Any = client.xrange(signals.tokens_key(job))
    return [fields for _, fields in found]


def tokens(client: "redis.Redis", job: str) -> list[int]:
    return [token for entry in entries(client, job) for token in json.loads(entry[b"t"])]


def test_each_token_is_told_once_and_in_order(talk: Talk, told: Teller, client: "redis.Redis") -> None:
    first, second = talk.sequences
    for number in range(40):
        first.tokens.append(number)
        wait_for(lambda: len(tokens(client, "resp_a")) > len(first.tokens) - 10)
    second.logprobs.append(Logprob(7, -0.5, ((7, -0.5),)))
    second.tokens.append(7)
    wait_for(lambda: tokens(client, "resp_a") == list(range(40)) and tokens(client, "resp_b"))
    assert entries(client, "resp_b") == [
        {b"a": b"2", b"s": b"1", b"i": b"0", b"t": b"[7]"}
        | {b"l": json.dumps([{"token": 7, "logprob": -0.5, "top": [[7, -0.5]]}]).encode()}
    ]
    index = 0
    for entry in entries(client, "resp_a"):
        assert int(entry[b"i"]) == index
        index += len(json.loads(entry[b"t"]))
    assert 0 < client.ttl(signals.tokens_key("resp_a")) <= 3600


def test_readers_are_told_where_there_is_something_new(
    talk: Talk, told: Teller, settings: Settings, client: "redis.Redis"
) -> None:
    heard: list[str] = []
    listener = Listener(settings.redis, SAID, heard.extend)
    wait_for(lambda: client.pubsub_numsub(SAID)[0][1])
    talk.sequences[0].tokens.append(5)
    assert wait_for(lambda: heard) == ["resp_a"]
    listener.close()


def test_who_begins_after_a_silence_is_told_too(talk: Talk, told: Teller, client: "redis.Redis") -> None:
    talk.present = False
    talk.sequences[0].tokens.append(5)
    wait_for(lambda: not talk.streaming.is_set())
    talk.present = True
    talk.streaming.set()
    wait_for(lambda: tokens(client, "resp_a") == [5])


def test_after_redis_was_away_everything_is_told_again(
    talk: Talk, told: Teller, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teller, "_BREAK_SECONDS", 0.01)
    talk.sequences[0].tokens += [5, 6]
    wait_for(lambda: tokens(client, "resp_a") == [5, 6] and told._told)
    client.flushall()
    lost = told._client.pipeline
    broken = redis.Redis.from_url("redis://127.0.0.1:1/0")
    monkeypatch.setattr(told._client, "pipeline", broken.pipeline)
    talk.sequences[0].tokens.append(7)
    wait_for(lambda: not told._told)
    monkeypatch.setattr(told._client, "pipeline", lost)
    wait_for(lambda: tokens(client, "resp_a") == [5, 6, 7])


@pytest.mark.parametrize(
    ("tokens", "wanted", "count"),
    [
        ([], {}, 0),
        ([1, 2], {}, 2),
        ([1, EOS], {}, 1),
        ([1, EOS], {"ignore_eos": True}, 2),
        ([1, 4], {"stop_token_ids": (4,)}, 1),
    ],
)
def test_the_token_that_ends_a_text_is_not_told(
    tokens: list[int], wanted: dict[str, Any], count: int
) -> None:
    sequence = Sequence([1], Sampling(**{"max_tokens": 9, "seed": 0} | wanted), tokens=tokens)
    assert _tellable(sequence, EOS) == count
