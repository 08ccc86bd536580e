"""procrastinate's callers: 64 coroutines that defer jobs one by one, or one that defers them by 64."""

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import Any

from bench.queueing.answers import CALLERS, PAYLOAD, serve
from bench.queueing.counting import Statements
from bench.queueing.procrastinate_app import app, nothing


class Callers:
    """An event loop in a thread of its own, so that its connections stay open between the rounds."""

    def __init__(self) -> None:
        self._counted = Statements()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._run(self._open()).result()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Defer so many; say how long it took and what was asked of SQL."""
        began, before = time.perf_counter(), self._counted.count
        self._run(
            self._by_64(asked["jobs"]) if asked["batches"] else self._one_by_one(asked["jobs"])
        ).result()
        return {"seconds": time.perf_counter() - began, "statements": self._counted.count - before}

    async def _open(self) -> None:
        await app.open_async()

    async def _one_by_one(self, jobs: int) -> None:
        numbers = iter(range(jobs))

        async def call() -> None:
            for _ in numbers:
                await nothing.defer_async(payload=PAYLOAD)

        await asyncio.gather(*(call() for _ in range(CALLERS)))

    async def _by_64(self, jobs: int) -> None:
        for first in range(0, jobs, CALLERS):
            many = [{"payload": PAYLOAD}] * min(CALLERS, jobs - first)
            await nothing.batch_defer_async(*many)

    def _run(self, work: Any) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)


if __name__ == "__main__":
    serve(Callers().answer)
