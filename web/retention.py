"""What is past its retention goes: what only SQL holds first, for the store may be out of reach."""

from datetime import timedelta

import structlog

from jobs import creates, files, outbox, pruning
from web.desk import Desk

log = structlog.get_logger(__name__)


def prune(desk: Desk, kept: timedelta) -> None:
    """Delete what is past its time. The rows say what is, so this may be lost, doubled or killed."""
    gone = pruning.prune(desk.database, kept, desk.signals.erase)
    creates.prune(desk.database)
    outbox.prune(desk.database)
    files.prune(desk.database, desk.store)
    if gone:
        log.info("pruned finished jobs", jobs=gone)
