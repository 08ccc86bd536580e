"""`make bench-idempotency`: creates whose connection is cut, sent again as the official client does.

Each create is sent whole over a raw socket, which is then closed or reset: at once, a few milliseconds later,
within the answer or after it. It is sent again with its retry count, maybe cut once more, and a third time in
peace. At the end there must be one job for each create, with its text, and the last answer must name it.
"""

import argparse
import asyncio
import json
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sqlalchemy import select

from bench.stack import running
from jobs.database import Database
from jobs.settings import Settings
from jobs.tables import jobs

_CLIENTS = 100
_AGAIN = 0.3  # share of the first retries that are cut too
_LONGEST_PAUSE = 0.5  # seconds before a retry; the client's first is 0.4 to 0.5
_RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close with a reset, not with a goodbye


class Cut(StrEnum):
    """When the connection ends, after the whole request was sent."""

    BEFORE = "before the answer, at once"
    WHILE = "before the answer, within 20 ms"
    WITHIN = "within the answer"
    AFTER = "after the answer"


@dataclass
class Outcome:
    """What the clients saw, and what stands in the table."""

    ids: dict[str, str] = field(default_factory=dict)  # of each create the id that its last answer named
    cuts: Counter[Cut] = field(default_factory=Counter)
    answered_early: int = 0  # creates of which an answer was read and thrown away
    disagreed: int = 0  # ... that named another id than the last answer
    found: dict[str, list[str]] = field(default_factory=dict)  # of each create the ids of its jobs

    @property
    def duplicates(self) -> int:
        """Jobs beyond the first of a create."""
        return sum(len(ids) - 1 for ids in self.found.values())

    @property
    def lost(self) -> int:
        """Creates whose client was told of a job that is not there, or not its own."""
        return sum(job_id not in self.found.get(name, ()) for name, job_id in self.ids.items())


def run(database: Database, port: int, key: str, creates: int, seed: int = 1) -> Outcome:
    """Cut and repeat so many creates, each with a text of its own; then look into the table."""
    mark = f"{seed}-{time.time_ns()}"
    outcome = Outcome()
    asyncio.run(_Clients(port, key, random.Random(seed), outcome).create_all(mark, creates))
    with database.transaction() as connection:
        for row in connection.execute(select(jobs.c.id, jobs.c.request)):
            name = row.request["metadata"].get("create", "")
            if name.startswith(mark):
                outcome.found.setdefault(name, []).append(row.id)
    return outcome


@dataclass
class _Clients:
    port: int
    key: str
    random: random.Random
    outcome: Outcome

    async def create_all(self, mark: str, creates: int) -> None:
        names = iter([f"{mark}-{number}" for number in range(creates)])

        async def work() -> None:
            for name in names:
                await self._create(name)

        await asyncio.gather(*(work() for _ in range(min(_CLIENTS, creates))))

    async def _create(self, name: str) -> None:
        early = set()
        again = self.random.random() < _AGAIN
        for count in range(3):
            cut = self.random.choice(list(Cut)) if count == 0 or (count == 1 and again) else None
            answer = await self._send(name, count, cut)
            if cut is None:
                self.outcome.ids[name] = answer
                break
            self.outcome.cuts[cut] += 1
            early |= {answer} - {""}
            await asyncio.sleep(self.random.uniform(0, _LONGEST_PAUSE))
        self.outcome.answered_early += bool(early)
        self.outcome.disagreed += bool(early - {self.outcome.ids[name]})

    async def _send(self, name: str, count: int, cut: Cut | None) -> str:
        """The id that the whole answer names; nothing where it was not read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(_request(self.key, name, count))
            await writer.drain()
            if cut is Cut.BEFORE:
                return ""
            if cut is Cut.WHILE:
                await asyncio.sleep(self.random.uniform(0, 0.02))
                return ""
            if cut is Cut.WITHIN:
                await reader.read(self.random.randint(1, 400))
                return ""
            return _id_in(await reader.read())
        finally:
            if cut is not None and self.random.random() < 0.5:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.close()


def _request(key: str, name: str, count: int) -> bytes:
    asked = {"model": "starter", "input": "def ", "background": True, "max_output_tokens": 1}
    body = json.dumps(asked | {"metadata": {"create": name}})
    lines = (
        "POST /v1/responses HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"x-stainless-retry-count: {count}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", body]).encode()


def _id_in(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"not accepted: {answer[:500]!r}")
    return str(json.loads(body)["id"])


def main() -> None:
    """Run it against two web processes and print the count; the exit status tells whether it was 0 and 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--creates", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with running(WEB_PROCESSES="2") as bench, bench.worker_stopped():
        database = Database(Settings(var_dir=Path(bench.environment["VAR_DIR"])).database, connections=1)
        began = time.perf_counter()
        outcome = run(database, bench.port, bench.key, asked.creates, asked.seed)
        seconds = time.perf_counter() - began
        database.close()
    print(f"creates     {len(outcome.ids)}, cut {outcome.cuts.total()} times, in {seconds:.0f} s")
    for cut, count in sorted(outcome.cuts.items()):
        print(f"            {count:6} {cut}")
    print(f"duplicates  {outcome.duplicates}")
    print(f"lost        {outcome.lost}")
    print(f"disagreed   {outcome.disagreed} of {outcome.answered_early} whose first answer was read")
    if outcome.duplicates or outcome.lost or outcome.disagreed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
