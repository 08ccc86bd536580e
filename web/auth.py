"""Who asks: the bearer key of a request becomes the identity that every query names."""

import hashlib
import re
import time
from collections.abc import Sequence

from flask import g, request

from jobs import keys
from jobs.database import Database
from jobs.grouping import Grouping
from jobs.keys import SCOPES as SCOPES_OF_KEYS
from jobs.keys import Identity
from web.errors import Forbidden, Unauthorized

_REMEMBERED_SECONDS = 3.0  # a revoked key works for at most this long
_REMEMBERED_KEYS = 10_000


class Keys:
    """Asks SQL once per key and few seconds. Wrong keys are not remembered: they would fill the memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, tuple[float, Identity]] = {}
        self._asking = Grouping[tuple[bytes, str], Identity | None](self._asked_once)

    def identify(self, key: str) -> Identity | None:
        """The identity behind a key; None for a wrong or revoked one.

        Raises:
            DatabaseUnavailable: nobody knows.
        """
        name = hashlib.sha256(key.encode()).digest()
        until, identity = self._known.get(name, (0.0, None))
        if identity is None:
            return self._ask(name, key)
        return identity if time.monotonic() < until else self._asking.ask((name, key))

    def _asked_once(self, askers: Sequence[tuple[bytes, str]]) -> list[Identity | None]:
        """For all with a known key whose time has run out while somebody asks SQL."""
        return [self._known_still(name) or self._ask(name, key) for name, key in askers]

    def _known_still(self, name: bytes) -> Identity | None:
        until, identity = self._known.get(name, (0.0, None))
        return identity if time.monotonic() < until else None

    def _ask(self, name: bytes, key: str) -> Identity | None:
        with self._database.transaction() as connection:
            identity = keys.identify(connection, key)
        if identity is None:
            self._known.pop(name, None)
            return None
        if len(self._known) >= _REMEMBERED_KEYS:
            self._known.clear()
        self._known[name] = (time.monotonic() + _REMEMBERED_SECONDS, identity)
        return identity


SCOPES = {
    "responses": {"inference"},
    "completions": {"inference"},
    "chat": {"inference"},
    "batches": {"inference"},
    "models": {"inference"},
    "webhook_endpoints": {"inference"},
    "webhook_event_types": {"inference"},
    "fine_tuning": {"training"},
    "files": {"inference", "training"},
    "usage": set(SCOPES_OF_KEYS),
}
"""What stands after /v1 in a URL, and the scopes of which a key needs one. A test walks all routes."""

_EXPORTS = re.compile(r"/v1/models/.+/export(s/[^/]+(/cancel)?)?", re.DOTALL)


def scopes_of(path: str) -> set[str]:
    """The scopes of which a key needs one for a URL."""
    if _EXPORTS.fullmatch(path):
        return SCOPES["fine_tuning"]  # who may take models away is who makes them
    return SCOPES.get(path.removeprefix("/v1/").partition("/")[0], {"inference"})


def require(known: Keys) -> Identity:
    """Whose key came with the request; let it through only with one that allows its URL.

    Raises:
        Unauthorized: no key or a wrong one, always with the same words.
        Forbidden: a key that is not for this.
    """
    kind, _, key = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        raise Unauthorized(
            "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'.",
            code="missing_api_key",
        )
    found = known.identify(key.strip())
    if found is None:
        raise Unauthorized(
            "Incorrect API key provided. Send a key of this server in the header "
            "'Authorization: Bearer YOUR_KEY'; whoever runs this server can make one.",
            code="invalid_api_key",
        )
    allowed = scopes_of(request.path)
    if not allowed & found.scopes:
        wanted = " or ".join(sorted(allowed))
        raise Forbidden(f"This API key does not allow {wanted}. Use a key with that scope.")
    g.identity = found
    return found


def identity() -> Identity:
    """Whose key came with this request."""
    found: Identity = g.identity
    return found


def owner_id() -> int:
    """The owner who asks."""
    return identity().owner_id
