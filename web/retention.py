"""What is past its retention goes: what only SQL holds first, for the store may be out of reach."""

import time
from datetime import timedelta

import structlog

from jobs import creates, files, outbox, pruning
from jobs.errors import StorageFailed
from web.desk import Desk

log = structlog.get_logger(__name__)

_WALK_SECONDS = 86_400.0  # between two looks at every artifact there is


class Pruner:
    """Deletes what is past its time. The rows say what is, so this may be lost, doubled or killed."""

    def __init__(self, desk: Desk, kept: timedelta) -> None:
        self._desk, self._kept = desk, kept
        self._walk_at = 0.0  # time.monotonic()

    def prune(self) -> None:
        """Delete it; once a day look for artifacts of which no row tells, too."""
        desk = self._desk
        gone = pruning.prune(desk.database, self._kept, desk.signals.erase)
        creates.prune(desk.database)
        outbox.prune(desk.database)
        if time.monotonic() >= self._walk_at:
            self._walk()
        files.prune(desk.database, desk.store)
        if gone:
            log.info("pruned finished jobs", jobs=gone)

    def _walk(self) -> None:
        try:
            found = files.loosen_orphans(self._desk.database, self._desk.store)
        except StorageFailed as error:
            log.warning("artifacts could not be looked at, tried again later", error=str(error))
            return
        self._walk_at = time.monotonic() + _WALK_SECONDS
        if found:
            log.warning("artifacts that no row names", artifacts=found)
