"""How much each key may do: counters on Redis, and in this process while Redis is gone.

Requests and tokens per minute are sliding windows; jobs that wait or run are counted in SQL. A key without
limits costs nothing here.
"""

import math
import time
from dataclasses import dataclass
from typing import NoReturn

import redis
import structlog
from flask import g
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Connection
from werkzeug.datastructures import Headers

from jobs import keys
from jobs.attempts import NewJob
from jobs.inputs import GenerationInput
from jobs.keys import Identity
from jobs.queue import QueueName
from jobs.states import State
from web.catalogue import Models
from web.errors import RateLimited, TooManyTokens

log = structlog.get_logger(__name__)

_MINUTE = 60.0  # seconds
_BREAK_SECONDS = 5.0  # after a failure of Redis nobody asks it for this long
_SOCKET_SECONDS = 0.25
Storage = MemoryStorage | RedisStorage
_CONNECTIONS = 1000  # of one process to Redis, at most
_JOB_LIMIT_RETRY = 10  # seconds; jobs take as long as they take


@dataclass(frozen=True)
class Window:
    """The last minute of one key and one kind, as two counters."""

    limit: int
    previous: int  # what fades
    previous_seconds: float  # until it has faded
    current: int
    current_seconds: float  # until it has faded too

    @property
    def remaining(self) -> int:
        """What may be done now."""
        fading = math.floor(self.previous * self.previous_seconds / _MINUTE)
        return max(0, self.limit - fading - self.current)

    @property
    def reset(self) -> float:
        """Seconds until nothing of it counts any more."""
        return self.current_seconds if self.current else self.previous_seconds if self.previous else 0.0

    def wait(self, cost: int) -> float:
        """Seconds until `cost` fits if nothing else comes; infinity if it never does."""
        room = self.limit - cost
        if room < 0:
            return math.inf
        if self.current > room:
            return max(0.0, self.current_seconds - _MINUTE * (room + 1) / self.current)
        if not self.previous:
            return 0.0
        return max(0.0, self.previous_seconds - _MINUTE * (room - self.current + 1) / self.previous)


class Limiter:
    """Counts for everybody who shares this Redis; while it is away, for this process alone."""

    def __init__(self, redis_url: str) -> None:
        pool = redis.ConnectionPool.from_url(
            redis_url,
            max_connections=_CONNECTIONS,
            socket_timeout=_SOCKET_SECONDS,
            socket_connect_timeout=_SOCKET_SECONDS,
            retry=Retry(NoBackoff(), 1),  # the server may have restarted since
        )
        self._pool = pool
        # the URL only names the client library: the pool knows where Redis is
        self._shared: Storage = RedisStorage("redis://", connection_pool=pool, key_prefix="penstock:limits")
        self._own: Storage = MemoryStorage()
        self._broken_until = 0.0

    def take(self, name: str, limit: int, cost: int) -> tuple[bool, Window]:
        """Take `cost` from what `name` has, all or nothing; return whether it was there, and what is left."""
        if time.monotonic() >= self._broken_until:
            try:
                return _take(self._shared, name, limit, cost)
            except (redis.RedisError, OSError) as error:
                self._broken_until = time.monotonic() + _BREAK_SECONDS
                log.warning("redis is out of reach, limits count in each process", error=str(error))
        return _take(self._own, name, limit, cost)

    def close(self) -> None:
        """Give the sockets back."""
        self._pool.disconnect()


def _take(storage: Storage, name: str, limit: int, cost: int) -> tuple[bool, Window]:
    item = RateLimitItemPerMinute(limit)
    taken = cost == 0 or SlidingWindowCounterRateLimiter(storage).hit(item, name, cost=cost)
    return taken, Window(limit, *storage.get_sliding_window(item.key_for(name), item.get_expiry()))


def admit_request(limiter: Limiter, who: Identity) -> None:
    """Count this request and remember what its answer shall say of the key's limits.

    Raises:
        RateLimited: the key sent too many in the last minute.
    """
    most, tokens = who.limits.requests_per_minute, who.limits.tokens_per_minute
    if most is None and tokens is None:
        return
    g.windows = {}
    if tokens is not None:
        _, g.windows["tokens"] = limiter.take(_name(who, "tokens"), tokens, 0)
    if most is not None:
        taken, g.windows["requests"] = limiter.take(_name(who, "requests"), most, 1)
        if not taken:
            _refuse(RateLimited, f"{most} requests per minute", g.windows["requests"].wait(1))


def cost_of(models: Models, who: Identity, job: NewJob) -> int:
    """The tokens of a job's prompts and the most that it may write, for a key whose tokens are counted."""
    if who.limits.tokens_per_minute is None or job.queue != QueueName.GENERATE:
        return 0
    work = GenerationInput.model_validate(job.input)
    model = models.offers.require(job.model, job.owner_id)
    prompts = sum(models.tokenizers.count(model, prompt, "prompt") for prompt in work.prompts)
    return prompts + len(work.prompts) * max(work.n, work.best_of or 0) * work.sampling.max_tokens


def are_counted(who: Identity) -> bool:
    """Whether `admit_job` may refuse a job of this key."""
    most = who.limits
    return (most.tokens_per_minute, most.queued_jobs, most.concurrent_jobs) != (None, None, None)


def admit_job(connection: Connection, limiter: Limiter, who: Identity, cost: int) -> None:
    """Let a new job in that costs so many tokens; those that it does not use stay counted.

    Raises:
        RateLimited: the key has too many jobs, or asked for too many tokens in the last minute.
    """
    _admit_jobs(connection, who)
    most = who.limits.tokens_per_minute
    if most is None or not cost:
        return
    taken, window = limiter.take(_name(who, "tokens"), most, cost)
    g.windows["tokens"] = window
    if not taken:
        _refuse(TooManyTokens, f"{most} tokens per minute, of which this needs {cost}", window.wait(cost))


def add_headers(headers: Headers) -> None:
    """Tell a client whose key has limits how it stands."""
    for kind, window in g.get("windows", {}).items():
        headers[f"x-ratelimit-limit-{kind}"] = str(window.limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(window.remaining)
        headers[f"x-ratelimit-reset-{kind}"] = _duration(window.reset)


def _admit_jobs(connection: Connection, who: Identity) -> None:
    limits = who.limits
    if limits.queued_jobs is None and limits.concurrent_jobs is None:
        return
    keys.lock(connection, who.key_id)  # or two could take the last place
    for what, states, most in (
        ("queued jobs", (State.QUEUED,), limits.queued_jobs),
        ("jobs at once", (State.QUEUED, State.RUNNING), limits.concurrent_jobs),
    ):
        if most is not None and keys.count_jobs(connection, who.key_id, states, most) >= most:
            raise RateLimited(
                f"This API key may have {most} {what}, and has them. Wait until one has ended or cancel one.",
                code="rate_limit_exceeded",
                retry_after=_JOB_LIMIT_RETRY,
                should_retry=False,
            )


def _name(who: Identity, kind: str) -> str:
    return f"{kind}:{who.key_id}"


def _refuse(error: type[RateLimited], what: str, seconds: float) -> NoReturn:
    if math.isinf(seconds):
        said = f"This API key may use {what}. Ask for less at once."
    else:
        said = f"Rate limit reached: this API key may use {what}. Try again in {_duration(seconds)}."
    raise error(
        said,
        code="rate_limit_exceeded",
        retry_after=math.ceil(min(seconds, _MINUTE)),
        should_retry=seconds <= _MINUTE,
    )


def _duration(seconds: float) -> str:
    """OpenAI's spelling: 12ms, 8.64s, 6m0s."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
