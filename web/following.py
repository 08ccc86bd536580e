"""How a stream hears of its job's tokens: one ear and one read of Redis for everybody who follows."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
import structlog

from jobs import signals
from jobs.signals import SAID, Listener
from web.connection import Connection
from web.waiting import Waiting, Watch

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5  # Redis may lose a hint; then tokens are seen this much later
_BREAK_SECONDS = 5.0  # after a failure nobody reads for this long
_MOST = 256  # entries of one job in one read; what is left comes with the next, which follows at once

Position = tuple[int, int]  # an entry's id in its stream: milliseconds, number


@dataclass(frozen=True, slots=True)
class Entry:
    """Tokens that one attempt at a job said at once."""

    attempt: int
    sequence: int
    index: int  # of the first token
    tokens: list[int]
    logprobs: list[Any] | None


class Tail:
    """One follower of one job: what was said since it last looked, and whether more will come."""

    def __init__(self, job_id: str, hurry: Callable[[str], None]) -> None:
        self.job_id = job_id
        self.ended = False
        """The job has ended or is gone, and everything that Redis had of it has been handed over."""
        self.position: Position = (0, 0)
        self._watch: Watch | None = None
        self._hurry = hurry
        self._over = False
        self._entries: deque[Entry] = deque()
        self._bell = threading.Event()

    @property
    def stopping(self) -> bool:
        """The process is to stop: end the answer, the client asks another process for the rest."""
        return self._watch is not None and self._watch.stopping

    @property
    def gone(self) -> bool:
        """The client has closed its connection."""
        return self._watch is not None and self._watch.gone

    def next(self, seconds: float) -> list[Entry]:
        """What was said since the last call, at once if there is something, else within `seconds`.

        Returns early, and possibly with nothing, on `wake` and when `ended`, `stopping` or `gone` turns
        true. What comes with `ended` is the last; what Redis lost is in the job's row.
        """
        if not (self._over or self.stopping or self.gone):
            self._bell.wait(seconds)
        self._bell.clear()
        self.ended = self._over  # looked at before the entries are taken, which came before it
        found = []
        while self._entries:
            found.append(self._entries.popleft())
        return found

    def wake(self) -> None:
        """End the wait of `next`, from any thread."""
        self._bell.set()

    def watched(self, watch: Watch) -> None:
        """Say who tells of the job's end."""
        self._watch = watch

    def noticed(self) -> None:
        """The watch has something to say; an end waits until the last tokens have been read."""
        self._hurry(self.job_id)
        self.wake()

    def give(self, position: Position, entries: list[Entry]) -> None:
        """Hand over what was read."""
        self.position = max(self.position, position)
        if entries:
            self._entries.extend(entries)
            self.wake()

    def ending(self) -> bool:
        """Whether the job's end is known and not yet passed on."""
        return self._watch is not None and self._watch.ended and not self._over

    def end(self) -> None:
        """Nothing follows."""
        self._over = True
        self.wake()


class Following:
    """Hands the tokens of jobs to those who follow them. Redis is not read while nobody follows."""

    def __init__(self, redis_url: str, waiting: Waiting) -> None:
        self._client = signals.connect(redis_url)
        self._waiting = waiting
        self._tails: dict[str, set[Tail]] = {}
        self._due: set[str] = set()
        self._something = threading.Condition()
        self._closed = False
        self._broken_until = 0.0
        self._listener = Listener(redis_url, SAID, self._hear)
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)
        self._thread.start()

    @contextmanager
    def follow(self, job_id: str, client: Connection | None = None) -> Iterator[Tail]:
        """A tail that begins with the first token; with a `client`, it also tells when that has gone.

        Raises:
            DatabaseUnavailable: whether the job has ended already could not be seen.
        """
        tail = Tail(job_id, lambda found: self._hear([found]))
        with self._waiting.watch(job_id, tail.noticed, client) as watch:
            tail.watched(watch)
            with self._something:
                self._tails.setdefault(job_id, set()).add(tail)
            self._hear([job_id])
            try:
                yield tail
            finally:
                with self._something:
                    self._tails[job_id].discard(tail)
                    if not self._tails[job_id]:
                        del self._tails[job_id]

    def close(self) -> None:
        """End the threads."""
        with self._something:
            self._closed = True
            self._something.notify()
        self._thread.join(timeout=3)
        self._listener.close()
        self._client.close()

    def _hear(self, job_ids: Collection[str]) -> None:
        with self._something:
            due = self._tails.keys() & set(job_ids)
            if due:
                self._due |= due
                self._something.notify()

    def _run(self) -> None:
        while True:
            with self._something:
                self._something.wait_for(lambda: self._tails or self._closed)
                heard = self._something.wait_for(lambda: self._due or self._closed, _LOOK_SECONDS)
                if self._closed:
                    return
                due = self._due if heard else set(self._tails)
                self._due = set()
                tails = {job_id: list(self._tails[job_id]) for job_id in due & self._tails.keys()}
            if tails:
                self._serve(tails)

    def _serve(self, tails: dict[str, list[Tail]]) -> None:
        """One read for all of these jobs; an end that was known before it is passed on after it."""
        ending = [tail for each in tails.values() for tail in each if tail.ending()]
        since = {job_id: min(tail.position for tail in each) for job_id, each in tails.items()}
        for job_id, said in self._read(since).items():
            for tail in tails[job_id]:
                tail.give(said[-1][0], [entry for position, entry in said if position > tail.position])
            if len(said) == _MOST:
                self._hear([job_id])
                ending = [tail for tail in ending if tail.job_id != job_id]
        for tail in ending:
            tail.end()

    def _read(self, since: dict[str, Position]) -> dict[str, list[tuple[Position, Entry]]]:
        """What came after these positions; nothing while Redis is out of reach."""
        if time.monotonic() < self._broken_until:
            return {}
        keys = {signals.tokens_key(job_id): job_id for job_id in since}
        asked: dict[Any, Any] = {
            key: f"{since[job_id][0]}-{since[job_id][1]}" for key, job_id in keys.items()
        }
        try:
            found: Any = self._client.xread(asked, count=_MOST)
        except (redis.RedisError, OSError) as error:
            self._broken_until = time.monotonic() + _BREAK_SECONDS
            log.warning("redis is out of reach, streams show their tokens at the end", error=str(error))
            return {}
        return {keys[key.decode()]: [_said(*entry) for entry in entries] for key, entries in found}


def _said(name: bytes, fields: dict[bytes, bytes]) -> tuple[Position, Entry]:
    milliseconds, number = name.split(b"-")
    entry = Entry(
        attempt=int(fields[b"a"]),
        sequence=int(fields[b"s"]),
        index=int(fields[b"i"]),
        tokens=json.loads(fields[b"t"]),
        logprobs=json.loads(fields[b"l"]) if fields.get(b"l") else None,
    )
    return (int(milliseconds), int(number)), entry
