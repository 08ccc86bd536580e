"""A client of a running stack, as small as the demo and the starter need it."""

import json
import secrets
import shutil
import time
import urllib.error
import urllib.request
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, cast

_SECONDS = 60  # for an answer
_PATIENCE = 30  # seconds in which a server that says "not now" is asked again, as it asks for


class Refused(Exception):
    """What the server said instead of doing as it was asked."""


class Client:
    """Sends requests with a key; a refusal raises Refused with the server's own sentence."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request; return the JSON of its answer."""
        data = None if body is None else json.dumps(body).encode()
        with self._sent(method, path, data, self._headers) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def upload(self, name: str, content: bytes, purpose: str) -> str:
        """Send one file; return its id."""
        body, kind = multipart({"purpose": purpose}, name, content)
        with self._sent("POST", "/v1/files", body, self._headers | {"Content-Type": kind}) as answer:
            return str(json.load(answer)["id"])

    def download(self, file_id: str, path: Path) -> None:
        """Write the content of a file."""
        with (
            self._sent("GET", f"/v1/files/{file_id}/content", None, self._headers) as answer,
            path.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)

    def _sent(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        request = urllib.request.Request(f"{self._url}{path}", data, headers, method=method)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return cast(HTTPResponse, urllib.request.urlopen(request, timeout=_SECONDS))
            except urllib.error.HTTPError as error:
                wait = float(error.headers.get("Retry-After", "inf"))
                if error.code != 503 or time.monotonic() + wait > deadline:
                    raise Refused(f"{method} {path}: {error.read().decode()}") from None
                error.close()
                time.sleep(wait)


def multipart(fields: dict[str, str], name: str, content: bytes) -> tuple[bytes, str]:
    """A form with one file as a body, and its content type."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"
