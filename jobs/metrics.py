"""What is counted of attempts, by whoever runs them: a worker or a trainer."""

from collections.abc import Collection, Iterable

from prometheus_client import Counter

from jobs.attempts import Claim, Ending
from jobs.errors import WorkerStopping

_ATTEMPTS = Counter("penstock_attempts", "Attempts that ended, by how.", ["outcome"])
LEASE_LOSSES = Counter(
    "penstock_lease_losses", "Attempts that somebody else owns by now; their work was dropped."
)
SUCCEEDED, FAILED, RETRIED, HANDED_BACK = outcomes = ("succeeded", "failed", "retried", "handed_back")
_OF = {outcome: _ATTEMPTS.labels(outcome) for outcome in outcomes}


def count(endings: Iterable[Ending], settled: Collection[Claim]) -> None:
    """Count the endings that were committed, and as lost leases those that were not."""
    for ending in endings:
        if ending.claim in settled:
            _OF[_outcome(ending)].inc()
        else:
            LEASE_LOSSES.inc()


def _outcome(ending: Ending) -> str:
    if ending.error is None:
        return SUCCEEDED
    if not ending.again:
        return FAILED
    return HANDED_BACK if isinstance(ending.error, WorkerStopping) else RETRIED
