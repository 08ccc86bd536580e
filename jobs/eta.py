"""When a queued job will have ended, from what is before it and how fast its queue went of late."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jobs.positions import Place


@dataclass(frozen=True)
class Eta:
    """Half of the jobs end before `p50`, nine of ten before `p90`: see `rates`."""

    p50: datetime
    p90: datetime
    seconds: float  # from which both are made


def of(place: Place) -> Eta | None:
    """When a job will have ended if all goes as of late; None where nothing is known of its queue's speed."""
    rate = place.rate
    if rate is None:
        return None
    seconds = place.tokens_ahead / rate.tokens_per_second + place.tokens / rate.stream_tokens_per_second
    now = datetime.now(UTC)
    late50, late90 = (timedelta(seconds=seconds * late) for late in (rate.late50, rate.late90))
    return Eta(now + late50, now + late90, seconds)
