"""How long after a fault the stack served again, by the ledger alone."""

from tests.faults.chaos.ledger import Ledger, Strike

_SERVED = """
SELECT min(events.at) FROM events JOIN jobs ON jobs.id = events.id
WHERE events.state = 'succeeded' AND events.at >= ? AND jobs.created >= ?
"""
_GONE_ON = """
SELECT min(at) FROM events
WHERE id = ? AND (attempt > ? AND state = 'running' OR state IN ('succeeded', 'failed', 'cancelled'))
"""

_SLOWEST = "SELECT max(at - asked) FROM accepted WHERE asked BETWEEN ? AND ?"


def slowest_create(ledger: Ledger, strike: Strike) -> float | None:
    """Seconds until the slowest background create that was begun during the fault was accepted."""
    ((slowest,),) = ledger.query(_SLOWEST, strike.began, strike.over)
    return None if slowest is None else float(slowest)


def recovered_after(ledger: Ledger, strike: Strike) -> float | None:
    """Seconds from the end of a fault until a job that came after it had succeeded, and, from the death of
    whoever held them, until each job that was held ran again or had ended. None: not yet.
    """
    ((served,),) = ledger.query(_SERVED, strike.over, strike.over)
    if served is None:
        return None
    seconds = [served - strike.over]
    for job_id, attempt in strike.held.items():
        ((at,),) = ledger.query(_GONE_ON, job_id, attempt)
        if at is None:
            return None
        seconds.append(at - strike.died)
    return float(max(0.0, *seconds))


def percentile(seconds: list[float], share: float) -> float:
    """What `share` of them did not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
