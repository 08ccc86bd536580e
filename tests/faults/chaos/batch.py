"""A batch of a few lines, from its file to its results: each line must have exactly one."""

import asyncio
import json
from typing import Any

from stack.api import multipart
from tests.faults.chaos.client import Client, digest_of, text_of
from tests.faults.chaos.ledger import Complaint, Expected, Ledger
from tests.faults.chaos.wire import Request

_LINES = 5
_FINAL = {"completed", "failed", "cancelled", "expired"}
_EVERY_SECONDS = 0.5  # it is looked at


class Batch:
    """One owner's."""

    def __init__(self, client: Client, ledger: Ledger, owner: int) -> None:
        self._client, self._ledger, self._owner = client, ledger, owner
        self._key = client.keys[owner]

    async def run(self, prompt: str, tokens: int, wanted: str) -> None:
        """Upload, create, wait, and complain of every line that is not `wanted` once. Raises GaveUp."""
        lines = [self._line(number, prompt, tokens) for number in range(_LINES)]
        batch = await self._create("\n".join(map(json.dumps, lines)).encode())
        while batch["status"] not in _FINAL:
            await asyncio.sleep(_EVERY_SECONDS)
            batch = await self._client.get(f"/v1/batches/{batch['id']}", self._owner, batch["id"])
        self._ledger.see_final(batch["id"], batch["status"], digest_of(batch))
        if batch["status"] != "completed":
            said = f"it is {batch['status']}: {batch['errors']}"
            self._ledger.complain(Complaint.FAILED, batch["id"], said)
            return
        results = [*await self._read(batch["output_file_id"]), *await self._read(batch["error_file_id"])]
        for line in lines:
            self._check(batch["id"], line["custom_id"], results, wanted)

    async def _create(self, content: bytes) -> Any:
        form, kind = multipart({"purpose": "batch"}, "lines.jsonl", content)
        name = f"file {self._client.next()}"
        file = await self._client.create(Request("POST", "/v1/files", self._key, form, kind, name))
        asked = {"input_file_id": file.json["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        name, body = f"batch {self._client.next()}", json.dumps(asked).encode()
        batch = (await self._client.create(Request("POST", "/v1/batches", self._key, body, name=name))).json
        self._ledger.accept(batch["id"], name, "batch", self._owner, Expected.BATCH)
        return batch

    def _line(self, number: int, prompt: str, tokens: int) -> dict[str, Any]:
        body = self._client.asked("completion", prompt, tokens)
        return {"custom_id": f"line {number}", "method": "POST", "url": "/v1/completions", "body": body}

    async def _read(self, file_id: str | None) -> list[Any]:
        if file_id is None:
            return []
        content = await self._client.persist(Request("GET", f"/v1/files/{file_id}/content", self._key))
        return list(map(json.loads, content.body.splitlines()))

    def _check(self, batch_id: str, custom_id: str, results: list[Any], wanted: str) -> None:
        mine = [each for each in results if each["custom_id"] == custom_id]
        if len(mine) != 1:
            fault = Complaint.DOUBLED if mine else Complaint.MISSING
            self._ledger.complain(fault, batch_id, f"{custom_id} has {len(mine)} results")
        for each in mine:
            body = (each["response"] or {}).get("body") or {}
            if "choices" not in body:
                if "poisoned" not in json.dumps(each):  # the stack's log tells of those
                    self._ledger.complain(Complaint.FAILED, batch_id, json.dumps(each))
            elif text_of(body) != wanted:
                self._ledger.complain(Complaint.WRONG, batch_id, f"{custom_id} says {text_of(body)!r}")
