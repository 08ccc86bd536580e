"""What was said of the ends of some jobs, noted to learn how true it was: see `rates`."""

import random
import time
from collections.abc import Sequence

import psycopg

from jobs.records import JobRecord

_NOTED_SECONDS = 0.2  # between two, in one process: a few hundred tell enough
_NOTE = """
    INSERT INTO predictions (job_id, seconds, made_at)
    SELECT id, %s, clock_timestamp() FROM jobs WHERE id = %s FOR KEY SHARE"""
_noted_at = float("-inf")  # time.monotonic()


def note(connection: psycopg.Connection, accepted: Sequence[JobRecord]) -> None:
    """Note one of these that were just accepted, by chance, unless one was noted just before."""
    global _noted_at
    expected = [(one.eta.seconds, one.id) for one in accepted if one.eta is not None]
    if expected and time.monotonic() >= _noted_at + _NOTED_SECONDS:
        connection.execute(_NOTE, random.choice(expected))
        _noted_at = time.monotonic()
