"""When a queued job will have ended, from what is before it and how fast its queue went of late."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jobs.positions import Place


@dataclass(frozen=True)
class Eta:
    """Half of the jobs end before `p50`, nine of ten before `p90`: see `rates`."""

    p50: datetime
    p90: datetime


def expected_seconds(place: Place) -> float | None:
    """How long a job takes from now on if all goes as of late; None where nothing is known of that."""
    rate = place.rate
    if rate is None:
        return None
    return place.tokens_ahead / rate.tokens_per_second + place.tokens / rate.stream_tokens_per_second


def of(place: Place) -> Eta | None:
    """When it will have ended; None where nothing is known of its queue's speed."""
    seconds = expected_seconds(place)
    if seconds is None or place.rate is None:
        return None
    now = datetime.now(UTC)
    return Eta(
        now + timedelta(seconds=seconds * place.rate.late50),
        now + timedelta(seconds=seconds * place.rate.late90),
    )
