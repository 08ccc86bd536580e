"""How an owner asks: again and again until there is an answer, with the same idempotency key."""

import asyncio
import hashlib
import json
import random
import time
from typing import Any

from tests.faults.chaos import MODEL, wire
from tests.faults.chaos.ledger import Complaint, Ledger
from tests.faults.chaos.wire import Answer, Broken, Request

_CUT = 0.03  # share of creates whose first connection is cut
_SECONDS = 30.0  # for one answer
_NOT_NOW = (409, 429, 502, 503, 504)


class GaveUp(Exception):
    """The run is over, or asking again would not help."""


class Client:
    """Every owner's. Each create has a number of its own: its idempotency key and its generation's seed."""

    def __init__(self, port: int, ledger: Ledger, keys: list[str], seed: int) -> None:
        self.cut = 0.0  # until `cut_some`
        self.give_up_at = float("inf")  # time.monotonic()
        self._port, self._ledger, self.keys = port, ledger, keys
        self._random = random.Random(seed)
        self._number = time.time_ns()  # of the last create; no other run has it

    def cut_some(self) -> None:
        """From now on some creates are sent twice, the first time on a connection that is cut."""
        self.cut = _CUT

    def next(self) -> int:
        """A number that no other create has."""
        self._number += 1
        return self._number

    def asked(self, kind: str, prompt: str, tokens: int) -> dict[str, Any]:
        """The body of a greedy generation, and its number as its seed."""
        asked: dict[str, Any] = {
            "model": MODEL,
            "temperature": 0,
            "ignore_eos": True,
            "seed": self.next(),
        }
        if kind == "response":
            return asked | {"input": prompt, "max_output_tokens": tokens}
        return asked | {"prompt": prompt, "max_tokens": tokens}

    def generation(self, kind: str, owner: int, prompt: str, tokens: int, **more: Any) -> Request:
        """A create of a response or a completion."""
        body = self.asked(kind, prompt, tokens) | more
        name = str(body["seed"])
        return Request("POST", f"/v1/{kind}s", self.keys[owner], json.dumps(body).encode(), name=name)

    async def create(self, request: Request) -> Answer:
        """The answer that accepts it, perhaps after a connection that was cut on purpose. Raises GaveUp."""
        if self._random.random() < self.cut:
            try:
                await wire.send(self._port, request, 10, cut=True)
            except Broken:
                await asyncio.sleep(self._random.uniform(0, 0.2))
        return await self.persist(request)

    async def get(self, path: str, owner: int, job_id: str) -> Any:
        """The object at a path, which is about this job. Raises GaveUp."""
        answer = await self.persist(Request("GET", path, self.keys[owner]), may_be_gone=True)
        if answer.status == 404:
            self._ledger.complain(Complaint.MISSING, job_id, "it is not found any more")
            raise GaveUp
        return answer.json

    async def persist(self, request: Request, may_be_gone: bool = False) -> Answer:
        """A 200, however often it takes. Raises GaveUp."""
        while True:
            try:
                answer = await wire.send(self._port, request, _SECONDS)
                if answer.status == 200 or (may_be_gone and answer.status == 404):
                    return answer
                self._judge(request, answer)
            except Broken:
                pass  # whoever cannot know what became of it asks again
            await self._pause()

    async def read_stream(self, request: Request) -> list[Any]:
        """The events that came, however the connection ended; asks again where none did. Raises GaveUp."""
        while True:
            try:
                answer = await wire.send(self._port, request, _SECONDS)
                if answer.status == 200:
                    return wire.events(answer.body)
                self._judge(request, answer)
            except Broken as broken:
                if found := wire.events(broken.read):
                    return found
            await self._pause()

    def _judge(self, request: Request, answer: Answer) -> None:
        """Complain of what is no "not now": a refusal, or an error of ours."""
        if answer.status in _NOT_NOW:
            return
        said = f"{request.method} {request.path}: {answer.status} {answer.body[:300]!r}"
        self._ledger.complain(Complaint.REFUSED, request.name, said)
        if answer.status < 500:
            raise GaveUp

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0.05, 0.5))
        if time.monotonic() > self.give_up_at:
            raise GaveUp


def text_of(answer: Any) -> str:
    """What a response or a completion says."""
    if "choices" in answer:
        return str(answer["choices"][0]["text"])
    return "".join(part["text"] for item in answer["output"] for part in item["content"])


def digest_of(answer: Any) -> str:
    """Equal for equal objects only."""
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()[:16]
