"""Ends a process that hangs or is broken: hands its leases up, so that others take its jobs, and exits."""

import os
import threading
from dataclasses import dataclass
from datetime import timedelta

import structlog

from jobs import lifecycle
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from worker.intake import Intake
from worker.meter import Ends
from worker.stillness import Pulse, Stillness

log = structlog.get_logger(__name__)

LOADING_SECONDS = 900.0
"""A model that is not loaded and warmed up by then hangs; a step beside it may take as long."""
_LOOK_SECONDS = 1.0
_RESULTS_SECONDS = 1.0  # for results that are on their way to SQL
_HAND_UP_SECONDS = 5.0  # then it exits without the database's word; the leases run out


@dataclass(frozen=True)
class Watched:
    """One part of the process, and how long it may stand still."""

    name: str
    pulse: Pulse
    patience: float  # seconds


class Watchdog:
    """A thread with a connection of its own. It cannot end what hangs, only the whole process."""

    def __init__(
        self, database: Database, intake: Intake, lease: timedelta, ends: Ends | None = None
    ) -> None:
        self._database, self._intake, self._lease, self._ends = database, intake, lease, ends
        self._watched: list[Watched] = []
        self._stopped = threading.Event()
        self._last = threading.Lock()  # held by whoever ends the process

    def watch(self, name: str, pulse: Pulse, patience: float) -> None:
        """Look at one thing more; before `run`."""
        self._watched.append(Watched(name, pulse, patience))

    def run(self) -> None:
        """Look until `stop`, or until something has stood still for longer than its patience."""
        every = min([_LOOK_SECONDS, *(watched.patience / 4 for watched in self._watched)])
        stillness = [(watched, Stillness(watched.pulse, 2 * every)) for watched in self._watched]
        while not self._stopped.wait(every):
            for watched, still in stillness:
                seconds = still.look()
                if seconds > watched.patience:
                    log.error("it hangs, the process ends", what=watched.name, seconds=round(seconds, 1))
                    self.give_up()
                    return

    def stop(self) -> None:
        """End `run`."""
        self._stopped.set()

    def end_process(self, crash: threading.ExceptHookArgs) -> None:
        """As `threading.excepthook`: half a process is no use."""
        log.error("thread died", thread=crash.thread and crash.thread.name, exc_info=crash.exc_value)
        self.give_up()

    def give_up(self) -> None:
        """Hand every lease up, if the database can be reached, and exit; a supervisor starts another."""
        if not self._last.acquire(blocking=False):
            return  # somebody else is at it
        if self._ends is not None:
            self._ends.add()
        handing = threading.Thread(target=self._hand_up, name="last words", daemon=True)
        handing.start()
        handing.join(_RESULTS_SECONDS + _HAND_UP_SECONDS)
        os._exit(1)

    def _hand_up(self) -> None:
        reached = self._intake.halt(_RESULTS_SECONDS)
        try:
            with self._database.transaction() as connection:
                lifecycle.heartbeat(connection, reached, self._lease, reached)
                moved = lifecycle.surrender(connection, reached)
        except DatabaseUnavailable as error:
            log.error("leases could not be handed up, they run out", jobs=len(reached), error=str(error))
        else:
            log.warning("leases handed up", **{str(state): count for state, count in moved.items()})
