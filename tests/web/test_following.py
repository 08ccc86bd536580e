"""Streams that follow jobs, over the real Redis and the real rows."""

import json
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from jobs import embedded, lifecycle, signals
from jobs.database import Database
from jobs.settings import Settings
from jobs.signals import ENDED, SAID
from tests.conftest import wait_for
from tests.jobs import samples
from web import following
from web.following import Entry, Following, Tail
from web.waiting import Waiting

JOB = "resp_followed"


@pytest.fixture
def client(settings: Settings, database: Database) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(settings.redis) as client:
        yield client


@pytest.fixture
def waiting(settings: Settings, database: Database) -> Iterator[Waiting]:
    waiting = Waiting(database, settings.redis, places=1)
    yield waiting
    waiting.close()


@pytest.fixture
def followed(settings: Settings, waiting: Waiting) -> Iterator[Following]:
    followed = Following(settings.redis, waiting)
    yield followed
    followed.close()


@pytest.fixture(autouse=True)
def _ears_close_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_POLL_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def _jobs(database: Database, owner: int) -> None:
    samples.submit(database, owner, [JOB, "resp_other"])


def say(client: "redis.Redis", index: int, tokens: list[int], hint: bool = True, job: str = JOB) -> None:
    """What a worker does after a step."""
    fields = {"a": 1, "s": 0, "i": index, "t": json.dumps(tokens), "l": ""}
    client.xadd(signals.tokens_key(job), fields)  # type: ignore[arg-type]
    if hint:
        client.publish(SAID, json.dumps([job]))


def cancel(database: Database, owner: int, job: str = JOB) -> None:
    with database.transaction() as connection:
        lifecycle.request_cancel(connection, job, owner)


def tokens(tail: Tail, count: int) -> list[int]:
    """The first tokens that come, at least `count` of them."""
    found: list[int] = []

    def enough() -> bool:
        found.extend(token for entry in tail.next(1) for token in entry.tokens)
        return len(found) >= count

    wait_for(enough)
    return found


def test_a_tail_begins_at_the_beginning_and_goes_on(followed: Following, client: "redis.Redis") -> None:
    fields = {"a": 2, "s": 1, "i": 5, "t": "[7, 8]", "l": '[{"chosen": -0.5}, null]'}
    client.xadd(signals.tokens_key(JOB), fields)  # type: ignore[arg-type]
    with followed.follow(JOB) as tail:
        first = Entry(attempt=2, sequence=1, index=5, tokens=[7, 8], logprobs=[{"chosen": -0.5}, None])
        assert tail.next(5) == [first]
        say(client, 7, [9])
        assert tail.next(5) == [Entry(1, 0, 7, [9], None)]
        assert not tail.ended


def test_a_hint_is_heard_at_once_and_a_lost_one_is_made_up_for(
    followed: Following, client: "redis.Redis"
) -> None:
    with followed.follow(JOB) as tail:
        wait_for(lambda: client.pubsub_numsub(SAID)[0][1])
        tail.next(0.6)
        delays = []
        for number in range(5):
            began = time.monotonic()
            say(client, number, [number])
            assert tokens(tail, 1) == [number]
            delays.append(time.monotonic() - began)
        assert min(delays) < 0.1
        say(client, 5, [5], hint=False)
        assert tokens(tail, 1) == [5]


def test_each_follower_hears_everything_of_its_own_job(followed: Following, client: "redis.Redis") -> None:
    say(client, 0, [1])
    with followed.follow(JOB) as early:
        assert tokens(early, 1) == [1]
        say(client, 1, [2])
        with followed.follow(JOB) as late, followed.follow("resp_other") as other:
            say(client, 2, [3])
            say(client, 0, [10], job="resp_other")
            assert tokens(early, 2) == [2, 3]
            assert tokens(late, 3) == [1, 2, 3]
            assert tokens(other, 1) == [10]


def test_more_than_one_read_takes_arrives_whole_and_before_the_end(
    followed: Following,
    client: "redis.Redis",
    database: Database,
    owner: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "_MOST", 4)
    for number in range(21):
        say(client, number, [number])
    cancel(database, owner)
    with followed.follow(JOB) as tail:
        found = []
        while not tail.ended:
            found += [token for entry in tail.next(5) for token in entry.tokens]
    assert found == list(range(21))


def test_the_end_of_the_job_ends_the_wait(
    followed: Following, client: "redis.Redis", database: Database, owner: int
) -> None:
    with followed.follow(JOB) as tail:
        assert tail.next(0.01) == []
        cancel(database, owner)
        client.publish(ENDED, json.dumps([JOB]))
        wait_for(lambda: tail.next(20) == [] and tail.ended, seconds=5)
    with followed.follow("resp_of_nobody") as tail:
        wait_for(lambda: tail.next(20) == [] and tail.ended, seconds=5)


def test_anybody_may_end_the_wait_and_a_stop_does(followed: Following, waiting: Waiting) -> None:
    with followed.follow(JOB) as tail:
        while tail.next(0.05):
            pass
        waker = threading.Timer(0.1, tail.wake)
        waker.start()
        began = time.monotonic()
        assert tail.next(20) == []
        assert time.monotonic() - began < 10
        assert not tail.stopping
        waiting.release()
        wait_for(lambda: tail.next(20) == [] and tail.stopping, seconds=5)
        assert not tail.ended


def test_without_redis_the_end_still_comes(
    settings: Settings, waiting: Waiting, database: Database, owner: int
) -> None:
    nowhere = f"unix://{embedded.run_folder(settings.var_dir)}/nothing.sock"
    alone = Following(nowhere, waiting)
    try:
        with alone.follow(JOB) as tail:
            assert tail.next(0.1) == []
            cancel(database, owner)
            wait_for(lambda: tail.next(20) == [] and tail.ended, seconds=5)
    finally:
        alone.close()


def test_five_hundred_followers_share_a_read(
    followed: Following, client: "redis.Redis", database: Database, owner: int
) -> None:
    names = [f"resp_{number}" for number in range(500)]
    samples.submit(database, owner, names)
    pending = [followed.follow(name) for name in names]
    tails = [one.__enter__() for one in pending]
    try:
        before = int(client.info("commandstats").get("cmdstat_xread", {"calls": 0})["calls"])
        for name in names:
            say(client, 0, [1], hint=False, job=name)
        client.publish(SAID, json.dumps(names))
        for tail in tails:
            assert tokens(tail, 1) == [1]
        after = int(client.info("commandstats")["cmdstat_xread"]["calls"])
        assert after - before < 20
    finally:
        for one in pending:
            one.__exit__(None, None, None)


def test_nothing_is_kept_of_those_who_left(followed: Following, waiting: Waiting) -> None:
    with followed.follow(JOB), followed.follow(JOB):
        pass
    assert not followed._tails
    assert not waiting._watches
