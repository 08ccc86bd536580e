"""The worker's entry: offers the models and runs their engines until told to stop.

main thread    Celery: hears doorbells and signals
intake         SQL: claims and commits
heartbeat      SQL: leases and cancels
device         the engines
listener       Redis: hints
teller         Redis: tokens, for those who read them as they come
watchdog       ends the process when one of the others hangs or dies
loader         describes the models and loads the first; later another one for each that a job waits for, and
               one that fetches and opens what was published
"""

import gc
import threading
from datetime import timedelta
from functools import partial

import structlog
import torch
from celery.signals import worker_shutting_down

from jobs import logs, prometheus, settings, threads
from jobs.database import Database
from jobs.queue import DOORBELLS, QUIET, QueueName, make_celery, make_signals
from jobs.settings import Settings
from jobs.signals import CANCELLED, Listener
from worker import meter
from worker.device import Device
from worker.heartbeat import Heartbeat
from worker.intake import Intake
from worker.roster import Roster
from worker.teller import Teller
from worker.watchdog import LOADING_SECONDS, Watchdog

log = structlog.get_logger(__name__)


class Worker:
    """Every thread of the process, and the order in which they start and stop."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        # intake, and three loaders
        self._database = Database(config.database, connections=4, idle_seconds=config.lease_seconds)
        self._signals = make_signals(config)
        self._busy = threading.Event()
        self._roster = Roster(config, self._database, self._busy)
        self.intake = Intake(
            self._database, self._signals, self._roster, config.worker, config.lease, config.max_failures
        )
        meter.watch(self._roster.residents)
        self._teller = Teller(config.redis, self.intake)
        self._device = Device(self._busy)
        self._beats = Database(
            config.database, 1, config.heartbeat_seconds, idle_seconds=config.lease_seconds
        )
        self._last_words = Database(
            config.database, connections=1, statement_seconds=config.heartbeat_seconds
        )
        pulse = partial(self._device.pulse, self._roster.residents)
        self._heartbeat = Heartbeat(
            self._beats,
            self.intake,
            self._roster,
            config.lease,
            timedelta(seconds=config.heartbeat_seconds),
            pulse,
        )
        ends = meter.Ends(config.var_dir)
        self.watchdog = Watchdog(self._last_words, self.intake, config.lease, ends)
        patience = max(config.step_timeout_seconds, config.lease_seconds)  # PostgreSQL may be slow to answer
        self.watchdog.watch("device", pulse, config.step_timeout_seconds)
        self.watchdog.watch("loading", lambda: self._roster.residents.loading, LOADING_SECONDS)
        self.watchdog.watch("heartbeat", lambda: self._heartbeat.turns, patience)
        self.watchdog.watch("intake", lambda: self.intake.turns, patience)

    def start(self) -> None:
        """Start every thread but Celery's."""
        self._listener = Listener(self._config.redis, CANCELLED, self._heartbeat.hear)
        self._threads = [
            threading.Thread(
                target=self._device.run,
                args=(self._roster.residents, self.intake.finish, self.intake.fail),
                name="device",
            ),
            threading.Thread(target=self._roster.open, args=(self.intake.wake,), name="loader"),
            threading.Thread(target=self._heartbeat.run, name="heartbeat"),
            threading.Thread(target=self.intake.run, name="intake"),
            threading.Thread(target=self._teller.run, name="teller"),
            threading.Thread(target=self.watchdog.run, name="watchdog"),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def stop(self) -> None:
        """Drain, hand back, and end every thread, in that order."""
        self.intake.stop(self._config.drain)
        self.watchdog.stop()
        self._heartbeat.stop()
        self._device.stop()
        self._teller.stop()
        self._listener.close()
        self._signals.close()
        for thread in self._threads:
            if thread.name != "loader":  # it may be in the middle of a download; it ends with the process
                thread.join(timeout=2)
        self._teller.close()
        self._beats.close()
        self._last_words.close()
        self._database.close()


def main() -> None:
    """Run until SIGTERM: load, serve, drain."""
    threading.excepthook = threads.end_process
    config = settings.read()
    logs.configure("worker", config.log_level)
    # A pass has threads of its own; those that torch would start inside the small operators between two
    # passes cost more than they give: 13 % of a sampling batch of 32.
    torch.set_num_threads(1)
    # Whenever a model leaves, everybody's steps wait for the collector: 0.3 s on a busy EPYC core as long as
    # that goes through the 260,000 objects of our imports, too.
    gc.freeze()
    worker = Worker(config)
    threading.excepthook = worker.watchdog.end_process
    celery = make_celery(config)

    @celery.task(name=DOORBELLS[QueueName.GENERATE])  # type: ignore[untyped-decorator]
    def drain() -> None:
        """Somebody rang. Returns at once: intake claims from SQL, and would have looked within a second."""
        worker.intake.wake()

    worker_shutting_down.connect(lambda **_: log.info("stopping"), weak=False)
    prometheus.serve("worker", config)
    worker.start()
    try:
        celery.worker_main(
            ["--quiet", "worker", "--queues", QueueName.GENERATE, "-n", f"worker@{config.worker}", *QUIET]
        )
    finally:
        worker.stop()


if __name__ == "__main__":
    main()
