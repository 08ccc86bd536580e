"""How fast the queues went of late, and how true it was what was said of the ends of their jobs.

The rate of a line is what its jobs cost, over the time in which any of them ran. With it an end can be
expected; what is told are two quantiles of what such expectations came to: of the last few hundred jobs of
which one was noted, which makes them hold for that share of the next ones too, as long as the load goes on
as it was (split conformal prediction; Vovk, Gammerman and Shafer 2005).
"""

import math
from collections import defaultdict, deque
from collections.abc import Sequence

from sqlalchemy import Column, ColumnElement, Connection, func, text
from sqlalchemy.dialects.postgresql import insert

from jobs.queue_tables import rates

_KEPT = 400  # of what expectations came to
_FEW = 20  # before so many are known, what was known before holds
_SMOOTH = 0.5  # of a new rate against the old one
_Line = tuple[str, str]

_RECENT = text("""
    WITH recent AS (
      SELECT queue, model, tokens, started_at, finished_at FROM jobs
      WHERE finished_at > clock_timestamp() - interval '60 seconds' AND state = 'succeeded'
      ORDER BY finished_at DESC LIMIT 5000
    ), spans AS (
      SELECT queue, model, sum(tokens) AS tokens,
        extract(epoch FROM sum(finished_at - started_at)) AS of_all,
        range_agg(tstzrange(started_at, finished_at, '[]')) AS ran
      FROM recent WHERE started_at <= finished_at GROUP BY queue, model
    )
    SELECT queue, model, tokens, of_all,
      (SELECT extract(epoch FROM sum(upper(span) - lower(span))) FROM unnest(ran) span) AS busy
    FROM spans
""")
_ENDED = text("""
    WITH ended AS (
      DELETE FROM predictions USING jobs
      WHERE jobs.id = predictions.job_id AND jobs.finished_at IS NOT NULL
      RETURNING jobs.queue, jobs.model, jobs.state,
        extract(epoch FROM jobs.finished_at - predictions.made_at) / predictions.seconds AS came_to
    )
    SELECT queue, model, came_to FROM ended WHERE state = 'succeeded'
""")


class Rates:
    """What the sweeper remembers to measure by; another one measures the same."""

    def __init__(self) -> None:
        self._came_to: dict[_Line, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def measure(self, connection: Connection) -> None:
        """Write how fast each line went whose jobs ended of late."""
        for row in connection.execute(_ENDED):
            self._came_to[row.queue, row.model].append(float(row.came_to))
        for row in connection.execute(_RECENT):
            if row.busy > 0 and row.of_all > 0:
                speeds = (float(row.tokens / row.busy), float(row.tokens / row.of_all))
                self._write(connection, (row.queue, row.model), speeds)

    def _write(self, connection: Connection, line: _Line, speeds: tuple[float, float]) -> None:
        came_to = sorted(self._came_to[line])
        late50, late90 = (_quantile(came_to, share) for share in (0.5, 0.9))
        new = insert(rates).values(
            queue=line[0],
            model=line[1],
            tokens_per_second=speeds[0],
            stream_tokens_per_second=speeds[1],
            late50=late50 or 1.0,
            late90=late90 or 2.0,
            updated_at=func.clock_timestamp(),
        )
        changed = {
            "tokens_per_second": _smoothed(rates.c.tokens_per_second, new.excluded.tokens_per_second),
            "stream_tokens_per_second": _smoothed(
                rates.c.stream_tokens_per_second, new.excluded.stream_tokens_per_second
            ),
            "updated_at": new.excluded.updated_at,
        }
        if late50 and late90:
            changed |= {"late50": new.excluded.late50, "late90": new.excluded.late90}
        connection.execute(new.on_conflict_do_update(index_elements=["queue", "model"], set_=changed))


def _smoothed(old: Column[float], new: ColumnElement[float]) -> ColumnElement[float]:
    return old + _SMOOTH * (new - old)


def _quantile(values: Sequence[float], share: float) -> float | None:
    """The least of the sorted values that so many of the next ones will not be above; None of too few."""
    if len(values) < _FEW:
        return None
    return values[min(len(values), math.ceil((len(values) + 1) * share)) - 1]
