"""One small fine-tune after the other while its trainer is killed: each must tell the same losses."""

import asyncio
import json
import time
from typing import Any

from stack.api import multipart
from tests.faults.chaos import MODEL
from tests.faults.chaos.client import Client, GaveUp, digest_of
from tests.faults.chaos.ledger import Complaint, Expected, Ledger
from tests.faults.chaos.wire import Request

STEPS, SAVE_STEPS = 60, 5
_TEXT = "\n".join(f"line {number} of a text that is learned" for number in range(400))
_JOBS = "/v1/fine_tuning/jobs"
_FINAL = {"succeeded", "failed", "cancelled"}
_OWNER = 0


class Trainings:
    """`learn` once while nothing is wrong, then `go_on` until `stopping`."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client, self._ledger = client, ledger
        self._file_id = ""
        self._losses = b""  # the table of a training that nobody disturbed
        self.ended = 0
        self.stopping = False
        self._answered = ("", 0)  # what `lag` spoke of last: a job and its newest checkpoint
        self.running = ""  # the id of the one that is under way

    async def learn(self) -> None:
        """Upload the text, and train once."""
        form, kind = multipart({"purpose": "fine-tune"}, "text.txt", _TEXT.encode())
        sent = await self._client.create(Request("POST", "/v1/files", self._key, form, kind, "training file"))
        self._file_id = str(sent.json["id"])
        self._losses = await self._train()

    async def go_on(self) -> None:
        """Train again and again, and compare."""
        while not self.stopping:
            try:
                losses = await self._train()
            except GaveUp:
                return
            self.ended += 1
            if losses != self._losses:
                said = f"its losses are not those of the first training: {losses[-200:]!r}"
                self._ledger.complain(Complaint.WRONG, self.running, said)

    async def lag(self) -> int | None:
        """How many steps the one under way has made since its last checkpoint.

        None while it has none that is newer than at the last answer: who dies again and again without coming
        further is given up, and rightly.
        """
        job = await self._client.get(f"{_JOBS}/{self.running}", _OWNER, self.running)
        kept = await self._client.get(f"{_JOBS}/{self.running}/checkpoints", _OWNER, self.running)
        newest = max((each["step_number"] for each in kept["data"]), default=0)
        if job["status"] != "running" or not job["progress"]:
            return None
        if newest == 0 or (job["id"], newest) == self._answered:
            return None
        self._answered = (job["id"], newest)
        return int(job["progress"]["step"]) - newest

    @property
    def _key(self) -> str:
        return self._client.keys[_OWNER]

    async def _train(self) -> bytes:
        """The table of the losses of one training. Raises GaveUp."""
        chosen = {"max_steps": STEPS, "save_steps": SAVE_STEPS, "batch_size": 2, "block_size": 64}
        method = {"type": "supervised", "supervised": {"hyperparameters": chosen | {"precision": "fp32"}}}
        asked = {"model": MODEL, "training_file": self._file_id, "method": method, "seed": 1}
        body = json.dumps(asked | {"init": "scratch"}).encode()
        name = str(self._client.next())
        job: Any = (await self._client.create(Request("POST", _JOBS, self._key, body, name=name))).json
        self.running = job["id"]
        self._ledger.accept(job["id"], name, "fine-tune", _OWNER, Expected.TEXT)
        while job["status"] not in _FINAL:
            await asyncio.sleep(0.5)
            if time.monotonic() > self._client.give_up_at:
                raise GaveUp
            job = await self._client.get(f"{_JOBS}/{job['id']}", _OWNER, job["id"])
        self._ledger.see_final(job["id"], job["status"], digest_of(job))
        if job["status"] != "succeeded":
            self._ledger.complain(Complaint.FAILED, job["id"], json.dumps(job["error"]))
            raise GaveUp
        return await self._table(job)

    async def _table(self, job: Any) -> bytes:
        for file_id in job["result_files"]:
            path = f"/v1/files/{file_id}/content"
            content = (await self._client.persist(Request("GET", path, self._key))).body
            if content.startswith(b"step,"):
                return content
        raise GaveUp
