"""Deaths one after the other, of whoever is up again: the mode that adds up to a thousand."""

import time
import urllib.error
import urllib.request

import psycopg

from tests.faults.chaos import matrix
from tests.faults.chaos.ground import Ground, Row, kill, strike
from tests.faults.chaos.ledger import Ledger, Strike
from tests.faults.chaos.stack import role

_SHARES = {"web": 3.0, "worker": 2.0, "clerk": 2.0, "redis": 2.0, "postgres": 2.0}
_REST = {"web": 4.0, "worker": 3.0, "clerk": 3.0, "redis": 1.0, "postgres": 12.0}
"""Seconds that each is left alone once it serves, or nothing would ever be done that a death could spoil."""
_ROWS = {row.fault: row for row in matrix.ROWS}
_DEATHS = {
    "web": _ROWS["web SIGKILL"],
    "worker": _ROWS["worker SIGKILL"],
    "clerk": _ROWS["clerk SIGKILL"],
    "redis": _ROWS["Redis SIGKILL"],
    "postgres": _ROWS["PostgreSQL SIGKILL"],
}
_CLAIMED = "SELECT min(at) FROM events WHERE worker = ? AND state = 'running' AND at > ?"


class Killer:
    """Knows who serves, and since when."""

    def __init__(self, ground: Ground, ledger: Ledger) -> None:
        self._ground, self._ledger = ground, ledger
        self._served_since: dict[str, tuple[int, float]] = {}  # (start, time.time()) by program

    def strike(self) -> Strike | None:
        """Kill one of those that have served for a while, if there is any, and work can come at all."""
        if any(self._since(name) is None for name in ("web", "postgres")):
            return None
        roles = {role(name) for name in self._ground.stack.programs} & set(_SHARES)
        ready = [each for each in roles if any(self._rested(name) for name in self._programs(each))]
        if not ready:
            return None
        ready.sort()
        (chosen,) = self._ground.random.choices(ready, [_SHARES[each] for each in ready])
        name = self._ground.random.choice([each for each in self._programs(chosen) if self._rested(each)])
        death = _DEATHS[chosen]
        if chosen == "worker":
            death = Row(death.number, death.fault, lambda ground, done: kill(ground, done, name))
        self._served_since.pop(name, None)
        return strike(self._ground, death)

    def _programs(self, wanted: str) -> list[str]:
        return [name for name in self._ground.stack.programs if role(name) == wanted]

    def _rested(self, name: str) -> bool:
        since = self._since(name)
        return since is not None and time.time() >= since + _REST[role(name)]

    def _since(self, name: str) -> float | None:
        """When it was first seen to serve, time.time(); None while it does not."""
        program = self._ground.stack.programs[name]
        if not program.pid:
            return None
        start, since = self._served_since.get(name, (0, 0.0))
        if start != program.starts:
            if not self._serves(name):
                return None
            start, since = self._served_since[name] = program.starts, time.time()
        return since

    def _serves(self, name: str) -> bool:
        stack, started = self._ground.stack, self._ground.stack.programs[name].started_at
        if name == "web":
            return _answers(f"http://127.0.0.1:{stack.port}/healthz")
        if name == "postgres":
            try:
                stack.connect().close()
            except psycopg.Error:
                return False
            return True
        if name.startswith("worker"):
            return self._ledger.query(_CLAIMED, name, started)[0][0] is not None
        return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=0.5):
            return True
    except (OSError, urllib.error.URLError):
        return False
