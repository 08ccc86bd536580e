"""What was lost, doubled or poisoned, by the ledger alone."""

import json
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.chaos.ledger import Complaint, Expected, Ledger

_FINAL = "('succeeded', 'failed', 'cancelled')"

_UNFINISHED = f"""
SELECT id, kind || ' was accepted and never seen ended' FROM accepted
WHERE id NOT IN (SELECT id FROM finals)
UNION ALL
SELECT id, 'its last move is not a final one' FROM events GROUP BY id
HAVING sum(state IN {_FINAL}) = 0
AND id NOT IN (SELECT id FROM accepted WHERE id NOT IN (SELECT id FROM finals))
"""
_ENDED_TWICE = f"""
SELECT id, 'ended ' || count(*) || ' times' FROM events WHERE state IN {_FINAL}
GROUP BY id HAVING count(*) > 1
"""
_WENT_ON = f"""
SELECT DISTINCT later.id, 'became ' || later.state || ' after its end' FROM events AS ended
JOIN events AS later ON later.id = ended.id AND later.number > ended.number
WHERE ended.state IN {_FINAL} AND later.state NOT IN {_FINAL}
"""
_TWICE_CLAIMED = """
SELECT id, 'its attempt ' || attempt || ' began ' || count(*) || ' times' FROM events
WHERE state = 'running' GROUP BY id, attempt HAVING count(*) > 1
"""
_SAME_NAME = """
SELECT min(jobs.id), count(*) || ' jobs for one create: ' || group_concat(jobs.id) FROM jobs
WHERE name IS NOT NULL
AND jobs.id NOT IN (SELECT id FROM events WHERE state IN ('cancelled', 'failed'))
GROUP BY name HAVING count(*) > 1
"""
_SAME_LINE = """
SELECT min(id), count(*) || ' jobs for line ' || line || ' of ' || batch FROM jobs
WHERE batch IS NOT NULL GROUP BY batch, line HAVING count(*) > 1
"""
_INNOCENT = f"""
SELECT id, 'poisoned' FROM events WHERE state = 'failed' AND code = 'poisoned'
AND id NOT IN (SELECT id FROM accepted WHERE expected = '{Expected.POISON}')
"""
_SPARED = f"""
SELECT id, 'a poison that ended ' || status FROM finals
WHERE id IN (SELECT id FROM accepted WHERE expected = '{Expected.POISON}') AND status <> 'failed'
"""

_LOST = {Complaint.MISSING}
_DOUBLED = {Complaint.CHANGED, Complaint.RENAMED, Complaint.DOUBLED}


@dataclass(frozen=True)
class Finding:
    """One job, and what is wrong with it."""

    job_id: str
    said: str


@dataclass
class Verdict:
    """What the ledger proves; all of it but `accepted` and `ended` should be empty."""

    accepted: int = 0
    ended: dict[str, int] = field(default_factory=dict)  # by status, as clients saw it
    lost: list[Finding] = field(default_factory=list)
    doubled: list[Finding] = field(default_factory=list)
    poisoned: list[Finding] = field(default_factory=list)  # though innocent
    wrong: list[Finding] = field(
        default_factory=list
    )  # another text, a failure or a refusal without a reason
    stale: int = 0  # jobs that run without a live lease at the end

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.poisoned or self.wrong or self.stale)


def judge(ledger: Ledger, stale: int = 0) -> Verdict:
    """The verdict once everything has had the time to end; `stale` as the witness counted last."""
    complaints = [(Complaint(fault), Finding(*row)) for fault, *row in ledger.query(_COMPLAINTS)]
    verdict = Verdict(
        accepted=ledger.query("SELECT count(*) FROM accepted")[0][0],
        ended=dict(ledger.query("SELECT status, count(*) FROM finals GROUP BY status")),
        lost=_found(ledger, _UNFINISHED),
        doubled=_found(ledger, _ENDED_TWICE, _WENT_ON, _TWICE_CLAIMED, _SAME_NAME, _SAME_LINE),
        poisoned=_found(ledger, _INNOCENT),
        wrong=_found(ledger, _SPARED),
        stale=stale,
    )
    for fault, finding in complaints:
        group = verdict.lost if fault in _LOST else verdict.doubled if fault in _DOUBLED else verdict.wrong
        group.append(Finding(finding.job_id, f"{fault}: {finding.said}"))
    return verdict


def by_strike(ledger: Ledger, findings: list[Finding]) -> Counter[int]:
    """How many of these belong to which strike: the last one before the job's last move, or its accept."""
    began = [strike.began for strike in ledger.strikes()]
    counted: Counter[int] = Counter()
    for finding in findings:
        (at,) = ledger.query(_LAST_SEEN, finding.job_id, finding.job_id)[0]
        counted[sum(each <= (at or 0) for each in began) - 1] += 1
    return counted


def as_text(verdict: Verdict) -> str:
    """Every finding, a line each."""
    groups = ("lost", "doubled", "poisoned", "wrong")
    return "\n".join(
        json.dumps({"what": group, "job": finding.job_id, "said": finding.said})
        for group in groups
        for finding in getattr(verdict, group)
    )


def _found(ledger: Ledger, *statements: str) -> list[Finding]:
    return [Finding(*row) for statement in statements for row in ledger.query(statement)]


_COMPLAINTS = "SELECT fault, id, said FROM complaints ORDER BY at"
_LAST_SEEN = """
SELECT max(at) FROM (SELECT at FROM events WHERE id = ? UNION ALL SELECT at FROM accepted WHERE id = ?)
"""
