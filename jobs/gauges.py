"""What the sweeper shows to Prometheus: how the queues stand by its last snapshot, and what it repaired."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import REGISTRY, Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jobs.attempts import Tier
from jobs.backlog import Total
from jobs.queue import QueueName

RECOVERED = Counter("penstock_recovered_jobs", "Jobs that were taken back from workers which fell silent.")
POISONED = Counter("penstock_poisoned_jobs", "Jobs that failed because their workers died with them.")
OVERDUE = Counter(
    "penstock_overdue_jobs", "Jobs that failed because their deadline passed while they waited."
)
UNSERVED = Counter("penstock_unserved_jobs", "Jobs that failed because no worker has their model any more.")


@dataclass(frozen=True)
class Standing:
    """What was seen last, by everybody's tiers and nobody's name."""

    totals: Sequence[Total] = ()
    deliveries: int = 0  # that are to be tried, now or later
    delivery_seconds: float = 0.0  # since the oldest was due


class Queues(Collector):
    """Makes the gauges of the last `Standing` when they are asked for, those of empty tiers too."""

    def __init__(self) -> None:
        self.standing = Standing()

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client wants it."""
        standing = self.standing  # read once: another may come meanwhile
        tiers: dict[tuple[str, Tier], list[Total]] = {
            (queue, tier): [] for queue in QueueName if queue is not QueueName.CLERK for tier in Tier
        }
        for total in standing.totals:
            tiers.setdefault((total.queue, Tier(total.tier)), []).append(total)
        labels = ["queue", "tier"]
        jobs = GaugeMetricFamily("penstock_queued_jobs", "Jobs that wait.", labels=labels)
        tokens = GaugeMetricFamily(
            "penstock_queued_tokens", "What the jobs that wait may cost: read and written.", labels=labels
        )
        oldest = GaugeMetricFamily(
            "penstock_oldest_queued_seconds", "Age of the job that has waited longest.", labels=labels
        )
        for (queue, tier), found in tiers.items():
            names = [queue, tier.name.lower()]
            jobs.add_metric(names, sum(one.jobs for one in found))
            tokens.add_metric(names, sum(one.tokens for one in found))
            oldest.add_metric(names, max((one.oldest_seconds for one in found), default=0.0))
        yield from (jobs, tokens, oldest)
        yield from _by_queue(standing.totals)
        yield GaugeMetricFamily(
            "penstock_webhook_outbox", "Deliveries that are to be tried.", value=standing.deliveries
        )
        yield GaugeMetricFamily(
            "penstock_webhook_outbox_seconds",
            "Since the delivery that is due longest was due; 0: none is.",
            value=standing.delivery_seconds,
        )


def _by_queue(totals: Sequence[Total]) -> Iterator[Metric]:
    seconds: defaultdict[str, float] = defaultdict(float)
    slack: dict[str, float] = {}
    for total in totals:
        seconds[total.queue] += total.seconds
        if total.deadline_seconds is not None:
            slack[total.queue] = min(slack.get(total.queue, total.deadline_seconds), total.deadline_seconds)
    backlog = GaugeMetricFamily(
        "penstock_backlog_seconds",
        "How long the workers need for what waits, at their rate of late; 0 where no rate is known.",
        labels=["queue"],
    )
    for queue in QueueName:
        if queue is not QueueName.CLERK:
            backlog.add_metric([queue], seconds[queue])
    deadline = GaugeMetricFamily(
        "penstock_deadline_slack_seconds",
        "From now to the soonest deadline of a job that waits; absent where none has one.",
        labels=["queue"],
    )
    for name, left in slack.items():
        deadline.add_metric([name], left)
    yield from (backlog, deadline)


QUEUES = Queues()
REGISTRY.register(QUEUES)
