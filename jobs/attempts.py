"""A job on its way through one attempt: submitted, claimed, ended. Ownership is a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from jobs.errors import JobError

INTERACTIVE = timedelta(0)
"""Somebody waits on the connection."""
STANDARD = timedelta(seconds=10)
"""A background job lets interactive ones of the next 10 s pass, and none that come later: nobody starves."""


@dataclass(frozen=True)
class NewJob:
    """What `submit` needs to know of a job."""

    id: str
    owner_id: int
    kind: str
    queue: str
    model: str
    behind: timedelta  # INTERACTIVE or STANDARD
    request: Mapping[str, Any]
    input: Mapping[str, Any]
    stored: bool = True


@dataclass(frozen=True)
class Claim:
    """A worker's temporary ownership of one attempt at a job."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class ClaimedJob:
    """A claim and the work that comes with it."""

    claim: Claim
    model: str
    input: dict[str, Any]
    failures: int
    suspect: bool = False  # its workers died; it runs alone


@dataclass(frozen=True)
class Ending:
    """How one attempt ended: with an output, or with an error that says whether it is tried again."""

    claim: Claim
    output: Mapping[str, Any] | None = None
    error: JobError | None = None
    again: bool = False
