"""The rows of the fault matrix that can happen to a running stack, each as a function that does it once."""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from jobs.queue import Chore, QueueName, make_celery
from jobs.settings import Settings
from tests.faults.chaos.client import GaveUp
from tests.faults.chaos.ledger import Strike
from tests.faults.chaos.load import Load
from tests.faults.chaos.stack import LEASE_SECONDS, Stack, role
from tests.faults.chaos.witness import Witness
from tests.faults.proxy import Fault, Way

_QUEUES = tuple(f"penstock:{queue}" for queue in (QueueName.GENERATE, QueueName.CLERK))
_MALFORMED = (
    b"",
    b"not json",
    b"[]",
    b"{}",
    b'{"body": 7}',
    b'{"body": "", "headers": {}, "properties": {}}',
    b'{"body": "gASVAQ==", "content-type": "application/x-python-serialize", "content-encoding": "binary",'
    b' "headers": {"task": "worker.drain", "id": "1"},'
    b' "properties": {"delivery_tag": "1", "delivery_info": {}, "body_encoding": "base64"}}',
    b'{"body": "W10=", "content-type": "application/json", "content-encoding": "utf-8",'
    b' "headers": {"task": "worker.nothing", "id": "2"},'
    b' "properties": {"delivery_tag": "2", "delivery_info": {}, "body_encoding": "base64"}}',
)
_DUPLICATES = 1000
_POISONED_SECONDS = 150.0
_FAILPOINT_SECONDS = 40.0


@dataclass(frozen=True)
class Ground:
    """Where faults are done."""

    stack: Stack
    load: Load
    witness: Witness
    random: random.Random

    def redis(self) -> "redis.Redis":
        """A client that passes no proxy."""
        return redis.Redis.from_url(self.stack.redis_url, socket_timeout=5)

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


def _killing(name: str) -> Do:
    return lambda ground, done: kill(ground, done, name)


def kill_worker(ground: Ground, done: Strike) -> None:
    """Any of them."""
    kill(ground, done, ground.a_worker())


def kill_web(ground: Ground, done: Strike) -> None:
    """gunicorn's master, or the process under it that serves."""
    if ground.random.random() < 0.5:
        return kill(ground, done, "web")
    with suppress(FileNotFoundError, ProcessLookupError):
        master = ground.stack.pid("web")
        for child in Path(f"/proc/{master}/task/{master}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
            done.kills["web"] = done.kills.get("web", 0) + 1
    done.died = done.over = time.time()
    return None


def _redis_down(ground: Ground, done: Strike) -> None:
    with ground.stack.down("redis"):
        done.kills["redis"] = 1
        _pause(ground, 1, 5)


def _redis_stopped(ground: Ground, _: Strike) -> None:
    with _frozen(ground, "redis"):
        _pause(ground, 2, 8)


def _flushall(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        for _again in range(5):
            client.flushall()
            _pause(ground, 0, 0.3)


def _redis_half_open(ground: Ground, _: Strike) -> None:
    ground.stack.redis_proxy.half_open()


def _redis_black_hole(ground: Ground, _: Strike) -> None:
    for way in Way:
        ground.stack.redis_proxy.fault(way, Fault(drop=True))
    _pause(ground, 2, 8)
    ground.stack.redis_proxy.heal()
    ground.stack.redis_proxy.half_open()  # the bytes that were dropped do not come back


def _client_kill(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind)


def _redis_full(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        try:
            _pause(ground, 2, 6)
        finally:
            client.config_set("maxmemory", before)


def _malformed(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        for queue in _QUEUES:
            client.lpush(queue, *_MALFORMED)
    _pause(ground, 2, 4)


def _duplicates(ground: Ground, _: Strike) -> None:
    celery = make_celery(Settings(var_dir=ground.stack.var_dir, redis_url=ground.stack.redis_url))
    with celery.connection_for_write() as connection:
        for _again in range(_DUPLICATES):
            celery.send_task("worker.drain", queue=QueueName.GENERATE, connection=connection)
        for chore in Chore:
            for _again in range(10):
                celery.send_task(chore, queue=QueueName.CLERK, connection=connection)


def _database_down(ground: Ground, _: Strike) -> None:
    with ground.stack.down("postgres", signal.SIGINT):
        _pause(ground, 1, 8)


def _database_black_hole(ground: Ground, _: Strike) -> None:
    for way in Way:
        ground.stack.database_proxy.fault(way, Fault(drop=True))
    _pause(ground, 1, 5)
    ground.stack.database_proxy.heal()
    ground.stack.database_proxy.cut()


def _commit_reply_lost(ground: Ground, _: Strike) -> None:
    proxy = ground.stack.database_proxy
    proxy.fault(Way.DOWN, Fault(cut_after=0, once_sent=b"COMMIT", times=ground.random.randint(1, 6)))
    _pause(ground, 1, 3)
    proxy.heal()


def _at_failpoint(point: str) -> Do:
    def do(ground: Ground, done: Strike) -> None:
        """The next process of this worker dies at its first, second or third passing of a point."""
        name = ground.a_worker()
        program = ground.stack.programs[name]
        before = dict(program.environment)
        with tempfile.TemporaryDirectory(dir=ground.stack.folder) as once:
            program.environment |= {
                "FAILPOINTS": f"{point}=kill@{ground.random.randint(1, 3)}",
                "FAILPOINTS_ONCE": once,
            }
            kill(ground, done, name)
            starts = program.starts
            _wait(lambda: program.starts > starts, 10)
            program.environment.clear()
            program.environment.update(before)
            died = _wait(lambda: not program.pid or program.starts > starts + 1, _FAILPOINT_SECONDS)
            done.died = done.over = time.time()
            done.held = ground.witness.held_by(name)  # the next process of this name needs seconds to claim
        done.kills["worker"] = done.kills.get("worker", 0) + died
        done.said = "" if died else "it was not passed"

    return do


def _zombie(ground: Ground, done: Strike) -> None:
    name = ground.a_worker()
    done.held = ground.witness.held_by(name)
    with _frozen(ground, name):
        done.died = time.time()
        _pause(ground, LEASE_SECONDS * 1.5, LEASE_SECONDS * 3)


def _poison(ground: Ground, done: Strike) -> None:
    starts = sum(ground.stack.programs[name].starts for name in ground.stack.worker_names)
    ended = ground.load.poison()
    with suppress(TimeoutError):
        job = ended.result(_POISONED_SECONDS)
        done.said = f"{job['status']}: {(job['error'] or {}).get('reason')}"
    after = sum(ground.stack.programs[name].starts for name in ground.stack.worker_names)
    done.kills["worker"] = after - starts


def _terminate(name: str) -> Do:
    def do(ground: Ground, _: Strike) -> None:
        chosen = ground.a_worker() if name == "worker" else name
        pid = ground.stack.send(chosen, signal.SIGTERM)
        _wait(lambda: ground.stack.pid(chosen) != pid, 30)

    return do


def _hang_up(ground: Ground, _: Strike) -> None:
    ground.stack.send("web", signal.SIGHUP)


def _replies_lost(ground: Ground, _: Strike) -> None:
    ground.load.client.cut = 1.0
    _pause(ground, 2, 4)
    ground.load.client.cut_some()


def _races(ground: Ground, _: Strike) -> None:
    ground.load.race(30)


def _twin(name: str) -> Do:
    def do(ground: Ground, _: Strike) -> None:
        with ground.stack.another(name):
            _pause(ground, 4, 8)

    return do


def _kill_trainer(ground: Ground, done: Strike) -> None:
    time.sleep(ground.random.uniform(0, 15))  # a training of a few steps needs that long to come to them
    with suppress(TimeoutError, GaveUp):
        lag = ground.load.training_lag()
        done.said = "" if lag is None else f"{lag} steps since the last checkpoint"
    held = ground.witness.trained()
    kill(ground, done, "trainer")
    done.held = held


ROWS = (
    Row("1", "Redis down for seconds", _redis_down),
    Row("2", "Redis stopped (SIGSTOP)", _redis_stopped),
    Row("3", "FLUSHALL in flight", _flushall),
    Row("4", "Redis SIGKILL", _killing("redis")),
    Row("5", "Redis half-open", _redis_half_open),
    Row("5", "Redis black hole", _redis_black_hole),
    Row("5", "CLIENT KILL", _client_kill),
    Row("6", "Redis full (maxmemory 1)", _redis_full),
    Row("7", "malformed broker messages", _malformed),
    Row("8", "doorbells x1000", _duplicates),
    Row("9, 10", "PostgreSQL down for seconds", _database_down),
    Row("10", "PostgreSQL SIGKILL", _killing("postgres")),
    Row("10", "PostgreSQL black hole", _database_black_hole),
    Row("11", "COMMIT's reply lost", _commit_reply_lost),
    Row("13", "worker dies before its claim commits", _at_failpoint("before_claim_commit")),
    Row("14", "worker dies after its claim", _at_failpoint("after_claim")),
    Row("15", "worker SIGKILL", kill_worker),
    Row("17", "worker dies before its results commit", _at_failpoint("before_settle_commit")),
    Row("17", "worker dies after its results commit", _at_failpoint("after_settle")),
    Row("18", "worker stopped past its lease, goes on", _zombie),
    Row("20", "poison job", _poison),
    Row("22", "worker SIGTERM", _terminate("worker")),
    Row("23", "web SIGKILL", kill_web),
    Row("23", "web SIGTERM", _terminate("web")),
    Row("23", "web SIGHUP", _hang_up),
    Row("24", "replies to creates lost", _replies_lost),
    Row("25", "30 races of two cancels", _races),
    Row("30", "a second sweeper", _twin("sweeper")),
    Row("30", "a second clerk", _twin("clerk")),
    Row("-", "clerk SIGKILL", _killing("clerk")),
    Row("-", "sweeper SIGKILL", _killing("sweeper")),
)
"""Each is drawn as often as another. Rows 16, 19, 21, 26 to 29 and 31 have tests of their own."""

TRAINER_ROWS = (Row("28", "trainer SIGKILL", _kill_trainer),) * 8
"""As often as all others that take long: a death of the trainer is about hours of work."""


def _pause(ground: Ground, least: float, most: float) -> None:
    time.sleep(ground.random.uniform(least, most))


def _wait(seen: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def _frozen(ground: Ground, name: str) -> Iterator[None]:
    ground.stack.send(name, signal.SIGSTOP)
    try:
        yield
    finally:
        ground.stack.send(name, signal.SIGCONT)
