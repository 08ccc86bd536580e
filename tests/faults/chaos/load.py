"""Owners who submit, wait, stream, cancel and send again, at a rate that heeds nothing."""

import asyncio
import concurrent.futures
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.faults.chaos import POISON
from tests.faults.chaos.batch import Batch
from tests.faults.chaos.client import Client, GaveUp, digest_of, text_of
from tests.faults.chaos.ledger import Complaint, Expected, Ledger
from tests.faults.chaos.trainings import Trainings
from tests.faults.chaos.wire import Request

PROMPTS = (
    "def ",
    "import ",
    "class A:",
    "# why\n",
    "return x",
    "0123",
    "for i in ",
    "if not ",
    "\n\n",
    "zebra ",
)
LENGTHS = (1, 2, 4, 8, 16, 48)  # tokens
_MOST_IN_FLIGHT = 150  # clients; who comes then turns round at the door
_FINAL = {"completed", "incomplete", "failed", "cancelled", "expired"}
_ENDED_STREAM = {f"response.{status}" for status in _FINAL}
_CANCELLED = 0.08  # share of background jobs
_AGAIN = 0.05  # share of accepted creates that are sent once more
_LOOKED_AT = 8000  # responses, at the end
_RECHECK_SECONDS = 0.3  # between looks at a job that has ended

Text = tuple[str, str, int]
"""What a text depends on: the endpoint, the prompt, and how many tokens."""


class Load:
    """Clients in an event loop that has a thread of its own; methods without `_` are for any thread."""

    def __init__(
        self, client: Client, ledger: Ledger, rate: float, seed: int, trainings: Trainings | None = None
    ) -> None:
        """`rate`: arrivals per second."""
        self.trainings = trainings
        self.rate, self.client = rate, client
        self.held_back = 0  # arrivals that found too many clients waiting
        self.sent: Counter[str] = Counter()  # by kind
        self.served = 0  # clients that got what they came for
        self._ledger = ledger
        self._random = random.Random(seed)
        self._references: dict[Text, str] = {}
        self._ended: list[tuple[str, int]] = []  # (id, owner) of responses that anybody can look at
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._arriving = True
        self._thread = threading.Thread(target=self._loop.run_forever, name="load", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """Clients that wait for something."""
        return len(self._tasks)

    def learn(self) -> None:
        """Ask for every text once, while nothing is wrong."""
        self._ask(self._learn()).result()
        if self.trainings:
            self._ask(self.trainings.learn()).result()
        self.client.cut_some()

    def start(self) -> None:
        """Let clients come."""
        self._ask(self._arrive())
        if self.trainings:
            self._training = self._ask(self.trainings.go_on())
        self._ask(self._recheck())

    def finish(self, seconds: float) -> int:
        """Let no more come, and wait for those who are there; returns how many waited in vain."""
        self._arriving = False
        self.client.give_up_at = time.monotonic() + seconds
        if self.trainings:
            self.trainings.stopping = True
            self._training.result()
        return int(self._ask(self._wait_for_all(seconds)).result())

    def look_again(self) -> None:
        """See the responses that ended once more, or of very many as many as can be looked at."""
        self._ask(self._look_again()).result()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def race(self, cancels: int) -> None:
        """So many jobs that are cancelled twice at once, at some moment of their short lives."""
        self._ask(self._race(cancels)).result()

    def training_lag(self) -> int | None:
        """As `Trainings.lag`."""
        return self._ask(self.trainings.lag()).result(10) if self.trainings else None

    def poison(self) -> "concurrent.futures.Future[Any]":
        """Submit a job that kills its workers; the future has its final object."""
        return self._ask(self._background(0, POISON, LENGTHS[-1], Expected.POISON))

    def _ask(self, work: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _learn(self) -> None:
        for prompt in PROMPTS:
            for tokens in LENGTHS:
                for kind in ("response", "completion"):
                    answer = await self.client.create(self.client.generation(kind, 0, prompt, tokens))
                    self._references[kind, prompt, tokens] = text_of(answer.json)

    async def _arrive(self) -> None:
        kinds: dict[Callable[[int, str, int], Awaitable[Any]], float] = {
            self._background: 0.48,
            self._wait_for_response: 0.16,
            self._wait_for_completion: 0.16,
            self._stream: 0.16,
            self._batch: 0.04,
        }
        due = time.monotonic()
        while self._arriving:
            due = max(due + self._random.expovariate(self.rate), time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())
            if len(self._tasks) >= _MOST_IN_FLIGHT:
                self.held_back += 1
                continue
            (kind,) = self._random.choices(list(kinds), list(kinds.values()))
            owner = self._random.randrange(len(self.client.keys))
            prompt, tokens = self._random.choice(PROMPTS), self._random.choice(LENGTHS)
            self.sent[kind.__name__.strip("_")] += 1
            self._spawn(self._serve(kind(owner, prompt, tokens)))

    async def _serve(self, work: Awaitable[Any]) -> None:
        await work
        self.served += 1

    def _spawn(self, work: Awaitable[Any]) -> "asyncio.Future[Any]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, GaveUp):
            self._ledger.complain(Complaint.REFUSED, "", f"the client crashed: {error!r}")

    async def _wait_for_all(self, seconds: float) -> int:
        if not self._tasks:
            return 0
        return len((await asyncio.wait(self._tasks, timeout=seconds + 60))[1])

    # what they do

    async def _background(
        self, owner: int, prompt: str, tokens: int, expected: Expected = Expected.TEXT
    ) -> Any:
        request = self.client.generation("response", owner, prompt, tokens, background=True)
        began = time.time()
        job_id = str((await self.client.create(request)).json["id"])
        self._ledger.accept(job_id, request.name, "response", owner, expected, began)
        if expected is Expected.TEXT and self._random.random() < _AGAIN:
            again = (await self.client.create(request)).json["id"]
            if again != job_id:
                self._ledger.complain(Complaint.RENAMED, job_id, f"sent again it was answered with {again}")
        if expected is Expected.TEXT and self._random.random() < _CANCELLED:
            self._ledger.expect(job_id, expected := Expected.MAYBE)
            await asyncio.sleep(self._random.uniform(0, 0.3))
            await self._cancel(job_id, owner)
        return await self._follow(job_id, owner, ("response", prompt, tokens), expected)

    async def _wait_for_response(self, owner: int, prompt: str, tokens: int) -> None:
        request = self.client.generation("response", owner, prompt, tokens)
        answer = (await self.client.create(request)).json
        self._ledger.accept(answer["id"], request.name, "response", owner, Expected.MAYBE)
        self._check(answer["id"], answer, ("response", prompt, tokens), Expected.MAYBE)
        await self._follow(answer["id"], owner, ("response", prompt, tokens), Expected.MAYBE)

    async def _wait_for_completion(self, owner: int, prompt: str, tokens: int) -> None:
        answer = (await self.client.create(self.client.generation("completion", owner, prompt, tokens))).json
        if text_of(answer) != self._references["completion", prompt, tokens]:
            self._ledger.complain(Complaint.WRONG, answer["id"], f"it says {text_of(answer)!r}")

    async def _stream(self, owner: int, prompt: str, tokens: int) -> None:
        background = self._random.random() < 0.5
        expected = Expected.TEXT if background else Expected.MAYBE
        request = self.client.generation(
            "response", owner, prompt, tokens, background=background, stream=True
        )
        events = await self.client.read_stream(request)
        job_id = events[0]["response"]["id"]
        self._ledger.accept(job_id, request.name, "response", owner, expected)
        while background and events[-1]["type"] not in _ENDED_STREAM:
            rest = f"/v1/responses/{job_id}?stream=true&starting_after={events[-1]['sequence_number']}"
            events += await self.client.read_stream(Request("GET", rest, self.client.keys[owner]))
        if events[-1]["type"] == "response.incomplete":  # it came to its end
            said = "".join(
                event["delta"] for event in events if event["type"] == "response.output_text.delta"
            )
            if said != self._references["response", prompt, tokens]:
                self._ledger.complain(Complaint.WRONG, job_id, f"its stream says {said!r}")
        await self._follow(job_id, owner, ("response", prompt, tokens), expected)

    async def _batch(self, owner: int, prompt: str, tokens: int) -> None:
        wanted = self._references["completion", prompt, tokens]
        await Batch(self.client, self._ledger, owner).run(prompt, tokens, wanted)

    async def _race(self, cancels: int) -> None:
        async def one() -> None:
            request = self.client.generation("response", 0, PROMPTS[0], LENGTHS[-1], background=True)
            job_id = str((await self.client.create(request)).json["id"])
            self._ledger.accept(job_id, request.name, "response", 0, Expected.MAYBE)
            await asyncio.sleep(self._random.uniform(0, 0.3))
            await asyncio.gather(self._cancel(job_id, 0), self._cancel(job_id, 0))
            await self._follow(job_id, 0, ("response", PROMPTS[0], LENGTHS[-1]), Expected.MAYBE)

        await asyncio.wait([self._spawn(one()) for _ in range(cancels)], timeout=60)

    async def _cancel(self, job_id: str, owner: int) -> None:
        path = f"/v1/responses/{job_id}/cancel"
        await self.client.persist(Request("POST", path, self.client.keys[owner], b"{}"))

    async def _recheck(self) -> None:
        while self._arriving:
            await asyncio.sleep(_RECHECK_SECONDS)
            if self._ended:
                self._spawn(self._see(*self._random.choice(self._ended)))

    async def _look_again(self) -> None:
        together = asyncio.Semaphore(8)
        self.client.give_up_at = time.monotonic() + 600

        async def one(job_id: str, owner: int) -> None:
            async with together:
                await self._see(job_id, owner)

        seen = self._random.sample(self._ended, min(_LOOKED_AT, len(self._ended)))
        await asyncio.gather(*(one(*each) for each in seen), return_exceptions=True)

    # what they see

    async def _follow(self, job_id: str, owner: int, text: Text, expected: Expected) -> Any:
        """The final object of a response, polled in one of two ways; complains of what is wrong with it."""
        wait = self._random.random() < 0.7
        job: Any = {"status": ""}
        while job["status"] not in _FINAL:
            job = await self.client.get(f"/v1/responses/{job_id}{'?wait=8' if wait else ''}", owner, job_id)
            if not wait and job["status"] not in _FINAL:
                await asyncio.sleep(self._random.uniform(0.2, 0.6))
        self._ledger.see_final(job_id, job["status"], digest_of(job))
        self._check(job_id, job, text, expected)
        self._ended.append((job_id, owner))
        return job

    async def _see(self, job_id: str, owner: int) -> None:
        job = await self.client.get(f"/v1/responses/{job_id}", owner, job_id)
        self._ledger.see_final(job_id, job["status"], digest_of(job))

    def _check(self, job_id: str, job: Any, text: Text, expected: Expected) -> None:
        status, reason = job["status"], (job["error"] or {}).get("reason")
        if expected is Expected.POISON:
            return  # the oracle knows them
        if status == "cancelled":
            if expected is not Expected.MAYBE:
                self._ledger.complain(Complaint.FAILED, job_id, "it is cancelled and nobody asked for that")
        elif status == "failed":
            if reason != "poisoned":  # the stack's log tells of those
                self._ledger.complain(Complaint.FAILED, job_id, json.dumps(job["error"]))
        elif text_of(job) != self._references[text]:
            self._ledger.complain(Complaint.WRONG, job_id, f"{text} says {text_of(job)!r}")
