"""What becomes of a process one of whose threads died."""

import os
import threading

import structlog

log = structlog.get_logger(__name__)


def end_process(crash: threading.ExceptHookArgs) -> None:
    """As `threading.excepthook`: half a process is no use; the supervisor starts a whole one."""
    log.error("thread died", thread=crash.thread and crash.thread.name, exc_info=crash.exc_value)
    os._exit(1)
