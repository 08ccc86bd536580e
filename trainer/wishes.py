"""What may be wanted of an attempt that runs."""

from enum import StrEnum


class Wish(StrEnum):
    """What somebody wants of it; the strongest comes first."""

    LOST = "lost"  # the lease is somebody else's by now
    CANCEL = "cancel"
    STOP = "stop"  # our own shutdown
    PAUSE = "pause"
