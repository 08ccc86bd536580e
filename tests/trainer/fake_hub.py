"""As much of the Hub's HTTP API as `huggingface_hub` needs to make repositories and commit to them."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_owner"
READER = "hf_that_may_only_read"


@dataclass
class Repository:
    """One of them, and what it holds."""

    private: bool
    sdk: str | None
    files: dict[str, bytes] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    commits: int = 0


@dataclass
class FakeHub:
    """By kind and name: ("models", "me/poems")."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    refused: str | None = None  # a kind that takes no commits

    def answer(self, path: str, token: str | None, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a POST."""
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if token not in (TOKEN, READER):
            return 401, {"error": "Invalid credentials in Authorization header"}
        if token == READER:
            return 403, {"error": "You don't have the rights to create a repository in this namespace"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        found = re.fullmatch(
            r"/api/(models|spaces)/([^/]+/[^/]+)/(preupload/main|commit/main|variables)", path
        )
        assert found is not None, f"the Hub was asked {path}"
        kind, name, what = found.groups()
        repository = self.repositories[kind, name]
        if what == "variables":
            asked = json.loads(body)
            repository.variables[asked["key"]] = asked["value"]
            return 200, {asked["key"]: {"value": asked["value"]}}
        if what == "preupload/main":
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            return 200, {"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]}
        if kind == self.refused:
            return 400, {"error": "Spaces rest"}
        return self._commit(kind, name, repository, body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.url}/{'' if kind == 'models' else 'spaces/'}{name}"
        if (kind, name) in self.repositories:
            return 409, {"error": "You already created this repo", "url": url}
        self.repositories[kind, name] = Repository(asked.get("visibility") == "private", asked.get("sdk"))
        return 200, {"url": url}

    def _commit(self, kind: str, name: str, into: Repository, body: bytes) -> tuple[int, dict[str, Any]]:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                into.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        into.commits += 1
        oid = f"{into.commits:040x}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"}


@contextmanager
def serving() -> Iterator[FakeHub]:
    """The Hub, on a port of this machine."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, value = hub.answer(self.path, token, self._body())
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
