"""Batches to test with: their files, the clerk that works on them, and what they left."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import update

from jobs import files, keys
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.files import NewFile
from jobs.lines import Flaw
from jobs.settings import Settings
from jobs.tables import batches
from tests.web.conftest import Caller

COMPLETIONS = "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"model": "starter", "prompt": "def", "max_tokens": 2},
    "/v1/chat/completions": {"model": "org/chat", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "starter", "input": "def"},
}
"""A request that each endpoint takes."""


def line(custom_id: str, url: str = COMPLETIONS, **changes: Any) -> dict[str, Any]:
    """A line of a batch's file; `changes` are of its body."""
    body = BODIES[url] | changes
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


class Desktop:
    """One owner's files and batches."""

    def __init__(self, database: Database, settings: Settings, caller: Caller, key: str) -> None:
        self.caller = caller
        self._database = database
        self._store = ArtifactStore(settings.artifacts)
        with database.transaction() as connection:
            identity = keys.identify(connection, key)
        assert identity is not None
        self._owner = identity.owner_id

    def file(self, lines: Iterable[Mapping[str, Any]], errors: Iterable[Flaw] | None = ()) -> str:
        """The id of a file of these lines, validated with these errors; None: not validated yet."""
        written = [json.dumps(one) for one in lines]
        data = "\n".join(written).encode()
        with self._database.transaction() as connection:
            new = NewFile(self._owner, "in.jsonl", "batch", len(data), self._store.put(data))
            file_id = files.create(connection, new).id
        if errors is not None:
            self.validate(file_id, len(written), errors)
        return file_id

    def validate(self, file_id: str, count: int, errors: Iterable[Flaw] = ()) -> None:
        """Do what the clerk does with a new file."""
        with self._database.transaction() as connection:
            files.settle(connection, file_id, count, None, list(errors))

    def create(self, file_id: str, endpoint: str = COMPLETIONS, **more: Any) -> dict[str, Any]:
        """A new batch."""
        asked = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"} | more
        answer = self.caller.post("/v1/batches", **asked)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.get_json()
        return made

    def get(self, batch_id: str) -> dict[str, Any]:
        """A batch as it is now."""
        found: dict[str, Any] = self.caller.get(f"/v1/batches/{batch_id}").get_json()
        return found

    def cancel(self, batch_id: str) -> dict[str, Any]:
        """A batch, right after its cancel."""
        answer = self.caller.post(f"/v1/batches/{batch_id}/cancel")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.get_json()
        return found

    def let_expire(self, batch_id: str) -> None:
        """Let its window pass."""
        with self._database.transaction() as connection:
            over = update(batches).where(batches.c.id == batch_id)
            connection.execute(over.values(expires_at=batches.c.created_at))

    def read(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of an output or error file."""
        if file_id is None:
            return []
        content = self.caller.get(f"/v1/files/{file_id}/content").get_data(as_text=True)
        return [json.loads(one) for one in content.splitlines()]

    def results(self, batch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What each custom_id got; each must be there once, in one of the two files."""
        both = self.read(batch["output_file_id"]) + self.read(batch["error_file_id"])
        found = {one["custom_id"]: one for one in both}
        assert len(found) == len(both), "a custom_id is there twice"
        assert len({one["id"] for one in both}) == len(both)
        return found
