"""Tells the readers of streams what their jobs have said so far, from a thread of its own and over Redis."""

import json
import threading
import time
from typing import Any, Protocol

import redis
import structlog

from jobs import signals
from jobs.attempts import Claim
from jobs.signals import SAID
from worker.sequence import Sequence
from worker.work import stored_logprob

log = structlog.get_logger(__name__)

_EVERY_SECONDS = 0.05  # who reads sees no difference: text comes 20 times a second
_SHARE = 0.01  # of a core's time at most: it would be missing to the engine
_BREAK_SECONDS = 5.0  # after a failure nobody tries for this long
_KEPT_SECONDS = 3600  # of a job's stream, after its last tokens; later the row tells it


class Streams(Protocol):
    """What the teller needs of the intake."""

    streaming: threading.Event
    """Set when a job begins whose tokens somebody reads."""

    def streamed(self) -> list[tuple[Claim, Sequence, int]]:
        """The sequences of such jobs, each with how many of its tokens may be told."""


class Teller:
    """Adds new tokens to the Redis stream of each job, and says which jobs have some: one round trip for all.

    Nobody waits for it, and nothing is lost with it: what was not told is in the job's row at the end.
    """

    def __init__(self, redis_url: str, streams: Streams) -> None:
        self._client = signals.connect(redis_url)
        self._streams = streams
        self._told: dict[Sequence, int] = {}  # tokens of each that are in Redis
        self._stopped = threading.Event()

    def run(self) -> None:
        """Tell until `stop`."""
        while not self._stopped.is_set():
            self._streams.streaming.wait()
            self._streams.streaming.clear()  # before the look: who begins after it sets it again
            while (streamed := self._streams.streamed()) and not self._stopped.is_set():
                began = time.thread_time()
                done = self._tell(streamed)
                rest = max(_EVERY_SECONDS, (time.thread_time() - began) / _SHARE)
                self._stopped.wait(rest if done else _BREAK_SECONDS)
            self._told.clear()

    def stop(self) -> None:
        """End `run`."""
        self._stopped.set()
        self._streams.streaming.set()

    def close(self) -> None:
        """Give the socket back."""
        self._client.close()

    def _tell(self, streamed: list[tuple[Claim, Sequence, int]]) -> bool:
        """Tell what is new; returns whether Redis took it."""
        told = {sequence: self._told.get(sequence, 0) for _, sequence, _ in streamed}
        pipeline = self._client.pipeline(transaction=False)
        jobs = set()
        for claim, sequence, count in streamed:
            if count > told[sequence]:
                key = signals.tokens_key(claim.job_id)
                pipeline.xadd(key, _entry(claim, sequence, told[sequence], count))
                pipeline.expire(key, _KEPT_SECONDS)  # each time: a Redis that was emptied knows of none
                told[sequence] = count
                jobs.add(claim.job_id)
        try:
            if jobs:
                pipeline.publish(SAID, json.dumps(sorted(jobs)))
                pipeline.execute()
        except (redis.RedisError, OSError) as error:
            log.warning("redis is out of reach, streams show their tokens at the end", error=str(error))
            self._told.clear()  # it may come back empty: readers pass over what they have
            return False
        self._told = told
        return True


def _entry(claim: Claim, sequence: Sequence, first: int, end: int) -> dict[Any, Any]:
    """Tokens `first` to `end` as an entry of the job's stream."""
    logprobs = [stored_logprob(one) for one in sequence.logprobs[first:end]]
    return {
        "a": claim.attempt,
        "s": sequence.index,
        "i": first,
        "t": json.dumps(sequence.tokens[first:end]),
        "l": json.dumps(logprobs) if logprobs else "",
    }
