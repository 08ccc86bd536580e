"""Penstock's worker around an engine that answers at once: its real intake and heartbeat, and 64 slots."""

import threading
import time
from collections.abc import Collection
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

from bench.queueing.answers import CALLERS, serve
from bench.queueing.counting import Statements
from jobs import logs, published, settings
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.queue import DOORBELLS, QUIET, QueueName, make_celery, make_signals
from jobs.signals import CANCELLED, Listener
from worker.heartbeat import Heartbeat
from worker.intake import Intake
from worker.lanes import Served
from worker.roster import Roster
from worker.sequence import Sequence

MODEL = "none"


class Instant:
    """A lane whose sequences end as soon as they are submitted; a thread says so, as the device's does."""

    def __init__(self) -> None:
        self.description = SimpleNamespace(tokenizer=None, eos_token_ids=(0,), digest="d")
        self.engine, self.drains, self.path, self.device = object(), False, "none", "none"
        self._ended: list[Sequence] = []
        self._some = threading.Event()

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return CALLERS - len(self._ended)

    def submit(self, sequences: Collection[Sequence], _adapter: object) -> None:
        """They have their one token already."""
        for sequence in sequences:
            sequence.tokens.append(1)
            sequence.text, sequence.finish_reason = "", "length"
            sequence.finished_at = time.monotonic()
        self._ended += sequences
        self._some.set()

    def drop(self, sequence: Sequence) -> None:
        """It has ended."""

    def run(self, intake: Intake) -> None:
        """Say who has ended."""
        while True:
            self._some.wait()
            self._some.clear()
            ended, self._ended = self._ended, []
            for sequence in ended:
                intake.finish(sequence)


class OneModel:
    """A roster of that lane."""

    def __init__(self, lane: Instant) -> None:
        version = ModelVersion(MODEL, "d", "none", 1, 64, 2, 0, "t", None, CALLERS)
        self.served = {MODEL: Served(version, cast(Any, lane))}
        self.closed: set[str] = set()
        self.residents = SimpleNamespace(lanes=[lane], loaded=[lane])

    def names(self, _lane: object) -> list[str]:
        """Its one name."""
        return [MODEL]

    def serving(self, model: str, _before: object) -> Served:
        """What serves it."""
        return self.served[model]

    def turn_away(self, _connection: object) -> None:
        """Every model is there."""

    def want(self, _waiting: object) -> bool:
        """Nothing is to be loaded."""
        return False

    def follow(self, database: Database) -> None:
        """As the roster does when nothing was published."""
        with database.reading() as connection:
            published.mark(connection)

    def offer(self, _database: Database) -> None:
        """Nobody asks."""


def main() -> None:
    """Work until the bench ends."""
    counted = Statements()
    config = settings.read()
    logs.configure("worker", config.log_level)
    lane = Instant()
    roster = cast(Roster, OneModel(lane))
    intake = Intake(
        Database(config.database, connections=3),
        make_signals(config),
        roster,
        "bench",
        config.lease,
        config.max_failures,
    )
    beats = Database(config.database, connections=1)
    every = timedelta(seconds=config.heartbeat_seconds)
    heartbeat = Heartbeat(beats, intake, roster, config.lease, every, time.monotonic)
    Listener(config.redis, CANCELLED, heartbeat.hear)
    celery = make_celery(config)

    @celery.task(name=DOORBELLS[QueueName.GENERATE])  # type: ignore[untyped-decorator]
    def drain() -> None:
        """As the worker's."""
        intake.wake()

    for work, given in ((intake.run, ()), (heartbeat.run, ()), (lane.run, (intake,))):
        threading.Thread(target=work, args=given, daemon=True).start()
    threading.Thread(target=serve, args=(lambda _: {"statements": counted.count},), daemon=True).start()
    celery.worker_main(["--quiet", "worker", "--queues", QueueName.GENERATE, "-n", "bench@bench", *QUIET])


if __name__ == "__main__":
    main()
