"""What happens to Redis and PostgreSQL, and on the way to them."""

import signal

from jobs.queue import Chore, QueueName, make_celery
from jobs.settings import Settings
from tests.faults.chaos.ground import Ground, frozen, pause
from tests.faults.chaos.ledger import Strike
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


def redis_down(ground: Ground, done: Strike) -> None:
    with ground.stack.down("redis"):
        done.kills["redis"] = 1
        pause(ground, 1, 5)


def redis_stopped(ground: Ground, _: Strike) -> None:
    with frozen(ground, "redis"):
        pause(ground, 2, 8)


def flushall(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        for _again in range(5):
            client.flushall()
            pause(ground, 0, 0.3)


def redis_half_open(ground: Ground, _: Strike) -> None:
    ground.stack.redis_proxy.half_open()


def redis_black_hole(ground: Ground, _: Strike) -> None:
    for way in Way:
        ground.stack.redis_proxy.fault(way, Fault(drop=True))
    pause(ground, 2, 8)
    ground.stack.redis_proxy.heal()
    ground.stack.redis_proxy.half_open()  # the bytes that were dropped do not come back


def client_kill(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind)


def redis_full(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        try:
            pause(ground, 2, 6)
        finally:
            client.config_set("maxmemory", before)


def malformed(ground: Ground, _: Strike) -> None:
    with ground.redis() as client:
        for queue in _QUEUES:
            client.lpush(queue, *_MALFORMED)
    pause(ground, 2, 4)


def duplicates(ground: Ground, _: Strike) -> None:
    celery = make_celery(Settings(var_dir=ground.stack.var_dir, redis_url=ground.stack.redis_url))
    with ground.redis(), celery.connection_for_write() as connection:
        for _again in range(_DUPLICATES):
            celery.send_task("worker.drain", queue=QueueName.GENERATE, connection=connection)
        for chore in Chore:
            for _again in range(10):
                celery.send_task(chore, queue=QueueName.CLERK, connection=connection)


def database_down(ground: Ground, _: Strike) -> None:
    with ground.stack.down("postgres", signal.SIGINT):
        pause(ground, 1, 8)


def database_black_hole(ground: Ground, _: Strike) -> None:
    for way in Way:
        ground.stack.database_proxy.fault(way, Fault(drop=True))
    pause(ground, 1, 5)
    ground.stack.database_proxy.heal()
    ground.stack.database_proxy.cut()


def commit_reply_lost(ground: Ground, _: Strike) -> None:
    proxy = ground.stack.database_proxy
    proxy.fault(Way.DOWN, Fault(cut_after=0, once_sent=b"COMMIT", times=ground.random.randint(1, 6)))
    pause(ground, 1, 3)
    proxy.heal()
