"""The task of plain Celery, with its documented settings for many short ones."""

import os
from typing import Any

from celery import Celery

from bench.queueing.answers import CALLERS

SOCKET = os.environ["BENCH_REDIS_SOCKET"]

app = Celery("bench", broker=f"redis+socket://{SOCKET}?virtual_host=1")
app.conf.update(
    result_backend=f"redis+socket://{SOCKET}?virtual_host=2",
    task_serializer="json",
    accept_content=["json"],
    result_expires=3600,
    worker_prefetch_multiplier=CALLERS,  # short tasks: the documentation names 50 to 150
    worker_send_task_events=False,
    broker_pool_limit=CALLERS,
    redis_max_connections=4 * CALLERS,
    broker_connection_retry_on_startup=True,
)

sender = Celery("sender", broker=app.conf.broker_url)
"""For those who do not wait: without a backend of its own it does not subscribe to each result."""
sender.conf.update(task_serializer="json", broker_pool_limit=CALLERS)


@app.task(name="bench.nothing")  # type: ignore[untyped-decorator]
def nothing(payload: dict[str, Any]) -> dict[str, Any]:
    """Answer at once."""
    return {"text": "", "prompt_tokens": len(payload["prompts"][0])}
