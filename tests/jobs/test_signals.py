"""Doorbells and hints over the real Redis, and over one that is stopped, full, killed or emptied."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from jobs import embedded, signals, sweeper
from jobs.database import Database
from jobs.queue import Chore, make_signals
from jobs.settings import Settings
from jobs.signals import CANCELLED, ENDED, Listener, Signals
from tests.conftest import wait_for
from tests.jobs import samples

BELL = "penstock:generate"


@pytest.fixture
def voice(settings: Settings, database: Database) -> Iterator[Signals]:
    voice = make_signals(settings)
    yield voice
    voice.close()


@pytest.fixture
def client(settings: Settings) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(settings.redis) as client:
        yield client


class OwnRedis:
    """A Redis of this test's own, in a folder with a blank in its name."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(var_dir=folder)
        for made in (embedded.run_folder(folder), folder / "redis"):
            made.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        command = embedded.redis_command(self.settings.var_dir)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.answers)

    def answers(self) -> bool:
        with redis.Redis.from_url(self.settings.redis, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except (redis.RedisError, OSError):
                return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(timeout=10)


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnRedis]:
    monkeypatch.setattr(signals, "_BREAK_SECONDS", 0.3)
    own = OwnRedis(tmp_path_factory.mktemp("r") / "v r")
    yield own
    own.kill()


@pytest.fixture
def own_voice(own: OwnRedis) -> Iterator[Signals]:
    voice = make_signals(own.settings)
    yield voice
    voice.close()


def test_a_ring_is_one_json_message_that_names_the_task_and_carries_nothing(
    voice: Signals, client: "redis.Redis"
) -> None:
    voice.ring("generate")
    wait_for(lambda: client.llen(BELL))
    [message] = [json.loads(raw) for raw in client.lrange(BELL, 0, -1)]
    assert message["headers"]["task"] == "worker.drain"
    assert message["headers"]["expires"]
    assert message["content-type"] == "application/json"
    assert (message["headers"]["argsrepr"], message["headers"]["kwargsrepr"]) == ("()", "{}")


@pytest.mark.parametrize(
    ("bell", "queue"), [("generate", "generate"), ("train", "train"), *((chore, "clerk") for chore in Chore)]
)
def test_every_queue_and_chore_has_its_bell(
    voice: Signals, client: "redis.Redis", bell: str, queue: str
) -> None:
    voice.ring(bell)
    wait_for(lambda: client.llen(f"penstock:{queue}"))


def test_rings_that_wait_together_are_one() -> None:
    said: list[str] = []
    first, go = threading.Event(), threading.Event()

    def knock(queue: str) -> None:
        said.append(queue)
        first.set()
        assert go.wait(timeout=10)

    voice = Signals("redis://unused", knock)
    voice._client.llen = lambda _name: 0
    voice.ring("generate")
    assert first.wait(timeout=10)
    for _ in range(50):
        voice.ring("generate")
        voice.ring("train")
    go.set()
    voice.close()
    assert sorted(said) == ["generate", "generate", "train"]


def test_a_full_list_has_been_rung_enough(voice: Signals, client: "redis.Redis") -> None:
    client.rpush(BELL, *["{}"] * signals._FULL)
    voice.ring("generate")
    voice.ring("train")
    wait_for(lambda: client.llen("penstock:train"))
    wait_for(lambda: not voice._rings)
    voice.close()
    assert client.llen(BELL) == signals._FULL


def test_nobody_waits_for_a_stopped_redis(own: OwnRedis, own_voice: Signals) -> None:
    own.process.send_signal(signal.SIGSTOP)
    slowest = 0.0
    for n in range(200):
        began = time.monotonic()
        own_voice.ring("generate")
        own_voice.hint(ENDED, [str(n)])
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.05
    wait_for(lambda: own_voice.degraded)
    own_voice.ring("generate")
    began = time.monotonic()
    own_voice.close()
    assert time.monotonic() - began < 5


def test_the_bell_rings_again_once_redis_is_back(own: OwnRedis, own_voice: Signals) -> None:
    own_voice.ring("generate")
    own.kill()
    wait_for(lambda: own_voice.ring("generate") or own_voice.degraded)
    own.start()
    wait_for(lambda: not own_voice.degraded)
    with redis.Redis.from_url(own.settings.redis) as client:
        wait_for(lambda: own_voice.ring("generate") or client.llen(BELL))
    assert not own_voice.degraded
    assert own_voice.reachable()


def test_an_emptied_redis_loses_no_job_and_the_sweeper_rings_again(
    database: Database, owner: int, voice: Signals, client: "redis.Redis"
) -> None:
    samples.submit(database, owner, map(str, range(20)))
    voice.ring("generate")
    wait_for(lambda: client.llen(BELL))
    client.flushall()
    with database.transaction() as connection:
        assert sweeper.ring_for_waiting(connection, voice) == ["generate"]
    wait_for(lambda: client.llen(BELL))
    assert len(samples.claim(database)) == 20


def test_a_hint_reaches_those_who_listen_to_its_channel(voice: Signals, settings: Settings) -> None:
    ended: list[str] = []
    cancelled: list[str] = []
    listeners = [
        Listener(settings.redis, ENDED, ended.extend),
        Listener(settings.redis, CANCELLED, cancelled.extend),
    ]
    wait_for(lambda: voice.hint(ENDED, ["a", "b"]) or set(ended) == {"a", "b"})
    assert cancelled == []
    for listener in listeners:
        listener.close()


def test_a_listener_hears_again_after_redis_was_killed_and_ends_when_told(
    own: OwnRedis, own_voice: Signals
) -> None:
    heard: list[str] = []
    listener = Listener(own.settings.redis, ENDED, heard.extend)
    wait_for(lambda: own_voice.hint(ENDED, ["before"]) or "before" in heard)
    own.kill()
    own.start()
    wait_for(lambda: own_voice.hint(ENDED, ["after"]) or "after" in heard)
    began = time.monotonic()
    listener.close()
    assert time.monotonic() - began < 2.5
    assert not listener._thread.is_alive()


def test_a_listener_outlives_what_it_cannot_read(
    settings: Settings, client: "redis.Redis", voice: Signals
) -> None:
    heard: list[str] = []
    listener = Listener(settings.redis, ENDED, heard.extend)
    wait_for(lambda: voice.hint(ENDED, ["before"]) or "before" in heard)
    client.publish(ENDED, b"\xff not json")
    wait_for(lambda: voice.hint(ENDED, ["after"]) or "after" in heard)
    listener.close()


def test_a_listener_ends_while_redis_is_stopped(own: OwnRedis) -> None:
    listener = Listener(own.settings.redis, ENDED, lambda _ids: None)
    own.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    listener.close()
    assert time.monotonic() - began < 4
