"""What Penstock says and hears over Redis: doorbells and hints, which may be lost and make nobody wait."""

import json
import threading
import time
from collections.abc import Callable, Iterable

import redis
import structlog

log = structlog.get_logger(__name__)

CANCELLED = "penstock:cancelled"
"""Channel: ids of running jobs whose clients gave up."""
ENDED = "penstock:ended"
"""Channel: ids of jobs that reached a final state."""
SAID = "penstock:said"
"""Channel: ids of running jobs that have new tokens in their streams."""

_BREAK_SECONDS = 5.0  # after a failure nobody tries for this long
_FULL = 100  # a doorbell list this long has been rung enough
_POLL_SECONDS = 1.0

_SOCKETS = {
    "socket_timeout": 2,
    "socket_connect_timeout": 2,
    "health_check_interval": 10,
}


def connect(url: str) -> "redis.Redis":
    """A client of Redis that never waits long for it."""
    return redis.Redis.from_url(url, **_SOCKETS)


def tokens_key(job_id: str) -> str:
    """The Redis stream of a job's tokens: entries of a=attempt, s=sequence, i=index, t=tokens, l=logprobs."""
    return f"penstock:tokens:{job_id}"


class Signals:
    """A background thread that speaks for everybody: callers leave a word and go on at once.

    Words of the same kind that wait together are said once.
    """

    def __init__(
        self, url: str, knock: Callable[[str], None], queue_of: Callable[[str], str] = lambda bell: bell
    ) -> None:
        """`knock` rings a bell, `queue_of` names the list in which its knocks wait."""
        self._client = connect(url)
        self._probe = redis.Redis.from_url(
            url, **_SOCKETS | {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
        )
        self._knock, self._queue_of = knock, queue_of
        self._rings: set[str] = set()
        self._hints: dict[str, set[str]] = {}
        self._erased: set[str] = set()
        self._something = threading.Condition()
        self._closed = False
        self._broken_until = 0.0
        self._thread = threading.Thread(target=self._speak, name="signals", daemon=True)
        self._thread.start()

    @property
    def degraded(self) -> bool:
        """Whether Redis was out of reach the last time anybody spoke."""
        return time.monotonic() < self._broken_until

    def ring(self, bell: str) -> None:
        """Say that there is work in a queue, or for a chore."""
        self._leave(lambda: self._rings.add(bell))

    def hint(self, channel: str, job_ids: Iterable[str]) -> None:
        """Say that something happened to these jobs, to whoever listens now."""
        self._leave(lambda: self._hints.setdefault(channel, set()).update(job_ids))

    def erase(self, job_ids: Iterable[str]) -> None:
        """Delete the streams of these jobs' tokens; one that Redis does not hear of expires in an hour."""
        self._leave(lambda: self._erased.update(job_ids))

    def reachable(self) -> bool:
        """Ask Redis once; who does not answer within half a second is out of reach."""
        try:
            return bool(self._probe.ping())
        except (redis.RedisError, OSError):
            return False

    def close(self) -> None:
        """Say what is left, if Redis listens, and end the thread."""
        with self._something:
            self._closed = True
            self._something.notify()
        self._thread.join(timeout=3)
        self._client.close()
        self._probe.close()

    def _leave(self, word: Callable[[], None]) -> None:
        with self._something:
            word()
            self._something.notify()

    def _speak(self) -> None:
        while True:
            with self._something:
                self._something.wait_for(lambda: self._rings or self._hints or self._erased or self._closed)
                if not self._rings and not self._hints and not self._erased:
                    return
                rings, hints, erased = self._rings, self._hints, self._erased
                self._rings, self._hints, self._erased = set(), {}, set()
            if self.degraded:
                continue  # dropped: everybody looks in SQL by themselves, and the sweeper rings again
            self._say(rings, hints, erased)

    def _say(self, rings: set[str], hints: dict[str, set[str]], erased: set[str]) -> None:
        try:
            if erased:
                self._client.unlink(*map(tokens_key, erased))
            for channel, job_ids in hints.items():
                self._client.publish(channel, json.dumps(sorted(job_ids)))
            for bell in rings:
                if self._client.llen(f"penstock:{self._queue_of(bell)}") < _FULL:
                    self._knock(bell)
        except Exception as error:  # noqa: BLE001  kombu passes through whatever its transport raises
            self._broken_until = time.monotonic() + _BREAK_SECONDS
            log.warning("redis is out of reach, jobs go on without doorbells", error=str(error))


class Listener:
    """A thread that hears one channel and survives Redis; it misses what was said while it could not hear."""

    def __init__(self, url: str, channel: str, heard: Callable[[list[str]], None]) -> None:
        self._client = connect(url)
        self._channel = channel
        self._heard = heard
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"listener {channel}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread within about a second."""
        self._closed.set()
        self._thread.join(timeout=3)
        self._client.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError):
                self._closed.wait(_POLL_SECONDS)

    def _listen(self) -> None:
        with self._client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(self._channel)
            while not self._closed.is_set():
                message = channel.get_message(timeout=_POLL_SECONDS)
                if message is None:
                    continue
                job_ids = _job_ids(message["data"])
                if job_ids is None:
                    log.warning("a hint could not be read")
                else:
                    self._heard(job_ids)


def _job_ids(data: bytes) -> list[str] | None:
    """What a hint says; None if it is not a list of ids."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    well_formed = isinstance(found, list) and all(isinstance(one, str) for one in found)
    return found if well_formed else None
