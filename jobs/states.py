"""The states a job can be in and the moves between them.

queued --> running                       claim
running --> succeeded | failed | cancelled
running --> queued                       retryable failure, expired lease, our own shutdown
queued --> cancelled | failed            the client's wish; poisoned
"""

from enum import StrEnum


class State(StrEnum):
    """Where a job stands. A wish (cancel, pause) is a column, not a state."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

FINAL = frozenset(state for state, moves in TRANSITIONS.items() if not moves)


def sources(target: State) -> frozenset[State]:
    """The states from which `target` may be reached."""
    return frozenset(state for state, moves in TRANSITIONS.items() if target in moves)


SUSPECT_AFTER = 2
"""Worker deaths; from then on a job runs alone."""
POISONED_AFTER = 3
"""Worker deaths; then the job has failed."""
