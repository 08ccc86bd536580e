"""Where a process can be made to die, hang or fail on purpose, for tests; nothing happens without FAILPOINTS.

FAILPOINTS="after_claim=kill,in_step=sleep:45@3" names a point, what happens there, and at which passing of it
in this process (without @: at each). FAILPOINTS_ONCE names a folder: a point that has happened leaves a file
of its name there and happens no more as long as that is there: a process that is started again lives.
"""

import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import BadSetting, PenstockError

POINTS = {
    "before_claim_commit": "jobs are taken, and not yet committed",
    "after_claim": "the claim is committed, and nothing of it begun",
    "before_first_token": "a job joins its batch",
    "in_step": "a batch is about to make a step",
    "before_heartbeat": "leases are about to be renewed",
    "after_artifact": "bytes are in the store, and no row names them yet",
    "before_settle_commit": "endings are written, and not yet committed",
    "after_settle": "endings are committed, and nobody was told",
    "before_bell": "a new job is committed, and its bell not rung",
    "before_checkpoint_row": "a checkpoint of a training is in the store, and has no row yet",
    "after_checkpoint_row": "it has one",
}
"""Every point, and what is true there."""


class Injected(PenstockError):
    """A failure that FAILPOINTS asked for."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    # to this thread: another one might be picked to hear it, and this one get beyond the point meanwhile
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _exit() -> None:
    os._exit(1)


def _raise() -> None:
    raise Injected("FAILPOINTS asked for this failure.")


_ACTIONS: dict[str, Callable[[], None]] = {"kill": _kill, "stop": _stop, "exit": _exit, "raise": _raise}
_ENTRY = re.compile(r"(?P<point>\w+)=(?P<action>[a-z]+)(:(?P<seconds>\d+(\.\d+)?))?(@(?P<passing>[1-9]\d*))?")


@dataclass(frozen=True)
class _Plan:
    """What happens at a point."""

    act: Callable[[], None]
    passing: int | None  # None: each
    passings: Iterator[int] = field(default_factory=lambda: itertools.count(1))


def failpoint(name: str) -> None:
    """Here what FAILPOINTS says of this point happens; mostly nothing.

    Raises:
        Injected: it said so.
    """
    if _GIVEN:
        _pass(name)


def check() -> None:
    """See that FAILPOINTS can be understood.

    Raises:
        BadSetting: it cannot; the message says what it takes.
    """
    plans(_GIVEN)


def plans(given: str) -> dict[str, _Plan]:
    """What a value of FAILPOINTS asks for.

    Raises:
        BadSetting: it names a point or an action that does not exist.
    """
    found: dict[str, _Plan] = {}
    for entry in filter(None, (part.strip() for part in given.split(","))):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise BadSetting(
                f"FAILPOINTS: {entry!r} is not point=action or point=action@passing. Send for example"
                " after_claim=kill, in_step=sleep:45 or in_step=raise@3."
            )
        name = match["point"]
        if name not in POINTS:
            raise BadSetting(f"FAILPOINTS: there is no point {name!r}. Send one of {', '.join(POINTS)}.")
        passing = int(match["passing"]) if match["passing"] else None
        found[name] = _Plan(_action(match["action"], match["seconds"]), passing)
    return found


def _action(name: str, seconds: str | None) -> Callable[[], None]:
    if name == "sleep" and seconds is not None:
        return lambda: time.sleep(float(seconds))
    if name not in _ACTIONS or seconds is not None:
        known = ", ".join(_ACTIONS)
        raise BadSetting(f"FAILPOINTS: there is no action {name!r} like this. Send {known} or sleep:SECONDS.")
    return _ACTIONS[name]


def _pass(name: str) -> None:
    if not _PLANS:
        _PLANS.update(plans(_GIVEN))
    plan = _PLANS.get(name)
    if plan is None or (plan.passing is not None and next(plan.passings) != plan.passing):
        return
    if not _ONCE or _is_first(name):
        plan.act()


def _is_first(name: str) -> bool:
    """Whether no process was here before; from now on one was."""
    try:
        (Path(_ONCE) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


_GIVEN = os.environ.get("FAILPOINTS", "")  # not a setting: nobody who runs a stack needs it
_ONCE = os.environ.get("FAILPOINTS_ONCE", "")
_PLANS: dict[str, _Plan] = {}
