"""The states a batch can be in, in OpenAI's words, and the moves between them.

validating --> in_progress                all its lines are jobs
validating --> failed                     its file is no batch
validating | in_progress --> finalizing   all lines have ended, or its time is over
validating | in_progress --> cancelling   the client's wish
finalizing --> completed | expired        its files are written
cancelling --> cancelled                  likewise
"""

from enum import StrEnum


class Status(StrEnum):
    """Where a batch stands."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


MOVES: dict[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset({Status.IN_PROGRESS, Status.FAILED, Status.FINALIZING, Status.CANCELLING}),
    Status.IN_PROGRESS: frozenset({Status.FINALIZING, Status.CANCELLING}),
    Status.FINALIZING: frozenset({Status.COMPLETED, Status.EXPIRED}),
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    Status.EXPIRED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.FAILED: frozenset(),
}

ENDED = frozenset(status for status, moves in MOVES.items() if not moves)
