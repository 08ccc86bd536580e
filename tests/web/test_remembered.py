"""What is remembered for seconds is asked of SQL by one of those who find it old, for all of them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobs import catalog, keys
from jobs.database import Database
from web import auth, offers
from web.auth import Keys
from web.offers import Offers


class Slow:
    """Calls through, once it may; counts."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.calls = 0
        self.go = threading.Event()
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        assert self.go.wait(10)
        return self._function(*arguments)


def at_once(slow: Slow, ask: Callable[[], Any], waiting: Callable[[], int]) -> list[Any]:
    """What eight askers hear of which one is asking already when the others come."""
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask) for _ in range(8)]
        while waiting() < 7 and slow.calls < 8:
            pass
        slow.go.set()
        return [one.result(timeout=10) for one in asked]


def test_the_catalog(offered: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(catalog.listing)
    monkeypatch.setattr(catalog, "listing", slow)
    known = Offers(offered)
    found = at_once(slow, known.all, lambda: len(known._asking._waiting))
    assert [set(one) for one in found] == [{"starter", "org/chat", "gpt2"}] * 8
    assert slow.calls == 1
    monkeypatch.setattr(offers, "_REMEMBERED_SECONDS", 0.0)
    known.forget()
    known.all()
    known.all()
    assert slow.calls == 3


def test_a_key(database: Database, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_REMEMBERED_SECONDS", 0.0)
    known = Keys(database)
    who = known.identify(key)
    monkeypatch.setattr(auth, "_REMEMBERED_SECONDS", 60.0)
    slow = Slow(keys.identify)
    monkeypatch.setattr(keys, "identify", slow)
    assert at_once(slow, lambda: known.identify(key), lambda: len(known._asking._waiting)) == [who] * 8
    assert slow.calls == 1


def test_a_revoked_key_is_forgotten(database: Database, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_REMEMBERED_SECONDS", 0.0)
    known = Keys(database)
    assert known.identify(key) is not None
    with database.transaction() as connection:
        keys.revoke(connection, key)
    assert [known.identify(key), known.identify(key)] == [None, None]
    assert not known._known
