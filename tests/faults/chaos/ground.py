"""Where faults are done, what a row of the matrix is, and the tools that all rows share."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from tests.faults.chaos.ledger import Strike
from tests.faults.chaos.load import Load
from tests.faults.chaos.stack import Stack, role
from tests.faults.chaos.witness import Witness

_REDIS_SECONDS = 30.0  # for it to answer


@dataclass(frozen=True)
class Ground:
    """Where faults are done."""

    stack: Stack
    load: Load
    witness: Witness
    random: random.Random

    def redis(self) -> "redis.Redis":
        """A client that passes no proxy, once Redis answers: it may have died for the fault before."""
        client = redis.Redis.from_url(self.stack.redis_url, socket_timeout=5)
        wait_for(lambda: _answers(client), _REDIS_SECONDS)
        return client

    def a_worker(self) -> str:
        """One that runs, if any does."""
        names = self.stack.worker_names
        return self.random.choice([name for name in names if self.stack.pid(name)] or names)


Do = Callable[[Ground, Strike], None]


@dataclass(frozen=True)
class Row:
    """One row of the matrix, or a death that has none."""

    number: str
    fault: str
    do: Do


def strike(ground: Ground, row: Row) -> Strike:
    """Do it; return what was done, and when it was over."""
    done = Strike(row.number, row.fault, began=time.time())
    row.do(ground, done)
    done.over = done.over or time.time()
    done.died = done.died or done.over
    return done


def kill(ground: Ground, done: Strike, name: str) -> None:
    """End a process without a word; a worker's jobs are noted before."""
    if name.startswith("worker"):
        done.held = ground.witness.held_by(name)
    if ground.stack.send(name, signal.SIGKILL):
        done.kills[role(name)] = done.kills.get(role(name), 0) + 1
    done.died = done.over = time.time()


def killing(name: str) -> Do:
    """The death of a program that there is once."""
    return lambda ground, done: kill(ground, done, name)


def pause(ground: Ground, least: float, most: float) -> None:
    """So many seconds."""
    time.sleep(ground.random.uniform(least, most))


def wait_for(seen: Callable[[], bool], seconds: float, every: float = 0.02) -> bool:
    """Whether it was seen in time."""
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def frozen(ground: Ground, name: str) -> Iterator[None]:
    """A process that does not run during the block."""
    ground.stack.send(name, signal.SIGSTOP)
    try:
        yield
    finally:
        ground.stack.send(name, signal.SIGCONT)
