"""Whether more work may come: above so many seconds that wait, creates are refused before any row is written.

What waits is known from the sweeper's snapshot, looked at once a second, and from what this process accepted
since. Nothing is refused while nobody knows how fast a model runs, or the snapshot is old.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs import backlog
from jobs.attempts import WEIGHTS, NewJob, Tier
from jobs.backlog import Total
from jobs.database import Database
from jobs.queue import QueueName
from web.errors import RateLimited
from web.metrics import REFUSED

_LOOK_SECONDS = 1.0
_STALE_SECONDS = 600.0  # the sweeper is away: nobody knows what waits
_MOST_LINES = 10_000  # that are remembered
_LONGEST_WAIT = 60  # seconds; the official clients ignore more
BATCH_SECONDS = 86_400.0
"""The completion window: a batch that begins later than this would only expire."""


@dataclass
class _Line:
    """What is known of a model's queue."""

    looked_at: float = -math.inf  # time.monotonic()
    measured_at: float = 0.0  # time.monotonic()
    rate: float | None = None  # tokens per second
    waiting: dict[int, Total] = field(default_factory=dict)  # by tier
    accepted: Counter[tuple[int, int, int]] = field(default_factory=Counter)  # tokens by second, tier, owner
    by_tier: Counter[int] = field(default_factory=Counter)  # of those
    of_owners: dict[int, dict[int, int]] = field(default_factory=dict)  # what some have in the snapshot
    room: dict[int, float] = field(default_factory=dict)  # tokens that may come before anybody reckons again

    def learn(self, totals: Sequence[Total], now: float) -> None:
        """Take in a snapshot; what was accepted before it is in it."""
        self.looked_at = now
        self.waiting = {total.tier: total for total in totals}
        self.of_owners.clear()
        self.room.clear()
        self.measured_at = now - min((total.age for total in totals), default=0.0)
        self.rate = next((total.tokens_per_second for total in totals), None)
        if now - self.measured_at > _STALE_SECONDS:
            self.rate = None
        since = int(self.measured_at)
        kept = {name: tokens for name, tokens in self.accepted.items() if totals and name[0] >= since}
        self.accepted = Counter(kept)
        self.by_tier = Counter()
        for (_, tier, _), tokens in kept.items():
            self.by_tier[tier] += tokens

    def add(self, tier: int, owner_id: int, tokens: int) -> None:
        """A job was accepted."""
        self.accepted[int(time.monotonic()), tier, owner_id] += tokens
        self.by_tier[tier] += tokens
        for one in self.room:
            self.room[one] -= tokens

    def tokens(self, tier: int) -> int:
        """What waits in a tier."""
        total = self.waiting.get(tier)
        return self.by_tier[tier] + (0 if total is None else total.tokens)

    def share(self, tier: int) -> float:
        """Of the rate that a tier gets: by its weight among those that wait."""
        weights = sum(weight for one, weight in WEIGHTS.items() if one == tier or self.tokens(one))
        return WEIGHTS[Tier(tier)] / weights

    def seconds(self, tier: int) -> float:
        """How long a new job of a tier would wait; 0 where nobody knows."""
        if self.rate is None:
            return 0.0
        done = self.rate * (time.monotonic() - self.measured_at)
        everything = sum(self.tokens(one) for one in WEIGHTS)
        ahead = min(everything, self.tokens(tier) / self.share(tier))
        return max(0.0, ahead - done) / self.rate

    def is_below_its_share(self, tier: int, owner_id: int, limit: float) -> bool:
        """Whether an owner has less than an equal part of what may wait: another's flood is not its fault."""
        assert self.rate is not None
        total = self.waiting.get(tier)
        own = self.of_owners.get(owner_id, {}).get(tier, 0)
        own += sum(n for (_, of, who), n in self.accepted.items() if (of, who) == (tier, owner_id))
        owners = max(1, 0 if total is None else total.owners) + (not own)
        return own / self.share(tier) < limit * self.rate / owners


class Admission:
    """What one web process knows of all queues."""

    def __init__(self, database: Database, most_seconds: float, patience: float) -> None:
        """`most_seconds` of work may wait, 0: any; `patience` is that of who waits on the connection."""
        self._database = database
        self._most = {
            Tier.INTERACTIVE: min(most_seconds, patience),
            Tier.STANDARD: most_seconds,
            Tier.BATCH: BATCH_SECONDS,
        }
        self.limits = most_seconds > 0
        """Whether anything is ever refused."""
        self._lines: dict[str, _Line] = {}

    def refusal(self, job: NewJob) -> RateLimited | None:
        """Why a job may not come now, None if it may. May ask SQL, so not while a connection is held.

        Raises:
            DatabaseUnavailable: nobody knows.
        """
        if not self.limits or job.queue != QueueName.GENERATE:
            return None
        return self.refusal_of(job.model, job.tier, job.owner_id)

    def refusal_of(self, model: str, tier: Tier, owner_id: int) -> RateLimited | None:
        """The same of any work for a model."""
        line, limit = self._line(model), self._most[tier]
        if line.room.get(tier, 0) > 0:
            return None
        over = line.seconds(tier) - limit
        if over <= 0:
            least = WEIGHTS[tier] / sum(WEIGHTS.values())  # of the rate, if all tiers come to wait
            line.room[tier] = math.inf if line.rate is None else -over * line.rate * least
            return None
        if owner_id not in line.of_owners:
            with self._database.reading() as connection:
                line.of_owners[owner_id] = backlog.owned(connection, QueueName.GENERATE, model, owner_id)
        if line.is_below_its_share(tier, owner_id, limit):
            return None
        REFUSED.inc()
        return RateLimited(
            f"About {_duration(limit + over)} of work wait for the model '{model}', more than the "
            f"{_duration(limit)} that may. Nothing was accepted; try again later.",
            code="backlog_full",
            retry_after=math.ceil(min(over, _LONGEST_WAIT)),
            should_retry=True,
        )

    def accepted(self, job: NewJob) -> None:
        """Count a job that was accepted, until a snapshot has it."""
        if self.limits and (line := self._lines.get(job.model)) is not None:
            line.add(job.tier, job.owner_id, job.tokens)

    def _line(self, model: str) -> _Line:
        """Looked at within the last second; while one request looks, others take what was known before."""
        if len(self._lines) > _MOST_LINES:
            self._lines.clear()
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = _Line()
        now = time.monotonic()
        if now - line.looked_at >= _LOOK_SECONDS:
            line.looked_at = now  # before the look, or every request would
            with self._database.reading() as connection:
                line.learn(backlog.totals(connection, QueueName.GENERATE, model), time.monotonic())
        return line


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} minutes"
