"""Plain Celery's callers: 64 threads that send tasks, and wait for each result where asked to."""

import threading
import time
from typing import Any

from bench.queueing.answers import CALLERS, PAYLOAD, serve
from bench.queueing.celery_app import nothing, sender


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Send so many; say how long it took."""
    waits, numbers, lock = asked["wait"], iter(range(asked["jobs"])), threading.Lock()

    def call() -> None:
        while True:
            with lock:
                if next(numbers, None) is None:
                    return
            if waits:
                nothing.apply_async((PAYLOAD,)).get(timeout=60)
            else:
                sender.send_task("bench.nothing", (PAYLOAD,))

    began = time.perf_counter()
    threads = [threading.Thread(target=call) for _ in range(asked.get("callers", CALLERS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - began}


if __name__ == "__main__":
    serve(answer)
