"""A job on its way through one attempt: submitted, claimed, ended. Ownership is a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from jobs.errors import JobError


class Tier(IntEnum):
    """Who waits for a job. A tier below is slowed, never starved: see `WEIGHTS`."""

    INTERACTIVE = 0
    """Somebody waits on the connection."""
    STANDARD = 1
    """In the background."""
    BATCH = 2
    """A line of a batch."""


WEIGHTS = {Tier.INTERACTIVE: 16, Tier.STANDARD: 4, Tier.BATCH: 1}
"""How the tokens of a queue are shared out between the tiers that have jobs waiting."""


@dataclass(frozen=True)
class NewJob:
    """What `submit` needs to know of a job."""

    id: str
    owner_id: int
    kind: str
    queue: str
    model: str
    tier: Tier
    request: Mapping[str, Any]
    input: Mapping[str, Any]
    stored: bool = True
    width: int = 1  # slots that it takes: its sequences
    tokens: int = 1  # what it may cost: those that it reads, and the most that it may write
    priority: int = 0  # within its owner, higher first
    deadline: datetime | None = None  # not begun by then, it fails
    api_key_id: int | None = None
    batch_id: str | None = None
    line: int | None = None  # of the batch's file, the first is 1
    custom_id: str | None = None  # of that line
    conversation: Sequence[Mapping[str, Any]] | None = None  # the items of a response's input
    webhook: Mapping[str, Any] | None = None  # {url, events}


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
    batch_id: str | None = None  # whose line it is
    width: int = 1  # slots that it takes
    followed: bool = False  # another due job came behind it when it was claimed


@dataclass(frozen=True)
class Ending:
    """How one attempt ended: with an output, or with an error that says whether it is tried again."""

    claim: Claim
    output: Mapping[str, Any] | None = None
    error: JobError | None = None
    again: bool = False
    batch_id: str | None = None  # whose line it was
