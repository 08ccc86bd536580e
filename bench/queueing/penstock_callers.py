"""Penstock's side of the door as `web` has it: 64 greenlets that submit through `Together`, and its poll."""

# ruff: noqa: E402  nothing may be imported unpatched
from gevent import monkey  # type: ignore[import-untyped]

monkey.patch_all()

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.queueing.answers import CALLERS, PAYLOAD, serve
from bench.queueing.counting import Statements
from jobs import settings
from jobs.attempts import NewJob, Tier
from jobs.database import Database
from jobs.queue import QueueName, make_signals
from jobs.signals import ENDED, Listener
from jobs.submission import First
from web import green
from web.together import Together

KIND, MODEL = "response", "none"
_OWNER = 1
_numbers = itertools.count()


class Callers:
    """What one web process does for background creates and for those who wait for their ends."""

    def __init__(self) -> None:
        config = settings.read()
        self._counted = Statements()
        self._database = Database(config.database, connections=10, kind=green.Connection)
        self._signals = make_signals(config)
        self._together = Together.of(self._database, self._signals)
        self._waiting: dict[str, threading.Event] = {}
        self._listener = Listener(config.redis, ENDED, self._heard)

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Submit so many, wait for each where asked to; say how long it took and what was asked of SQL."""
        work = self._submit_and_wait if asked["wait"] else self._submit
        began, before, numbers = time.perf_counter(), self._counted.count, iter(range(asked["jobs"]))
        together(lambda: each(numbers, work))
        return {"seconds": time.perf_counter() - began, "statements": self._counted.count - before}

    def _submit(self, job_id: str | None = None) -> str:
        job_id = job_id or f"resp_{next(_numbers):032x}"
        new = NewJob(job_id, _OWNER, KIND, QueueName.GENERATE, MODEL, Tier.STANDARD, {}, PAYLOAD, tokens=4)
        assert self._together.accept.ask(First(new)) is not None
        return job_id

    def _submit_and_wait(self) -> None:
        job_id, ended = f"resp_{next(_numbers):032x}", threading.Event()
        self._waiting[job_id] = ended
        self._submit(job_id)
        while True:
            ended.wait(1.0)  # a hint may get lost
            ended.clear()
            record = self._together.find.ask((_OWNER, KIND, job_id))
            assert record is not None
            if record.output is not None:
                del self._waiting[job_id]
                return

    def _heard(self, ids: list[str]) -> None:
        for job_id in ids:
            if (ended := self._waiting.get(job_id)) is not None:
                ended.set()


def each(numbers: Iterator[int], work: Callable[[], object]) -> None:
    """One caller: its next, until there are no more."""
    for _ in numbers:
        work()


def together(caller: Callable[[], None]) -> None:
    """So many callers at once."""
    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    serve(Callers().answer)
