"""The worker's entry: loads the models, offers them, and runs the engines until told to stop.

main thread    Celery: hears doorbells and signals
intake         SQL: claims and commits
heartbeat      SQL: leases and cancels
device         the engines
listener       Redis: hints
"""

import os
import threading
import time
from datetime import timedelta

import structlog
import torch
from celery.signals import worker_shutting_down

from jobs import catalog, logs, settings
from jobs.artifacts import ArtifactStore
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, ModelUnavailable
from jobs.queue import DOORBELLS, QUIET, QueueName, make_celery, make_signals
from jobs.settings import ModelSource, Settings
from jobs.signals import CANCELLED, Listener
from worker.device import Device, Lane
from worker.engine import Engine
from worker.heartbeat import Heartbeat
from worker.intake import Intake
from worker.loading import LoadedModel, load

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0
_DRAIN_SHARE = 0.7  # of DRAIN_SECONDS; the rest is for the commits and for everybody else


class Worker:
    """Every thread of the process, and the order in which they start and stop."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._database = Database(config.database, connections=2)
        self._signals = make_signals(config)
        self._busy = threading.Event()
        self._lanes = self._load_models()
        self.intake = Intake(
            self._database, self._signals, self._lanes, config.worker, config.lease, config.max_failures
        )
        self._device = Device(self._busy)
        self._heartbeat = Heartbeat(
            Database(config.database, connections=1, statement_seconds=config.heartbeat_seconds),
            self.intake,
            list(self._lanes.values()),
            config.worker,
            config.lease,
            timedelta(seconds=config.heartbeat_seconds),
        )

    def start(self) -> None:
        """Start every thread but Celery's."""
        lanes = list(self._lanes.values())
        self._listener = Listener(self._config.redis, CANCELLED, self._heartbeat.hear)
        self._threads = [
            threading.Thread(
                target=self._device.run, args=(lanes, self.intake.finish, self.intake.fail), name="device"
            ),
            threading.Thread(target=self._heartbeat.run, name="heartbeat"),
            threading.Thread(target=self.intake.run, name="intake"),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        log.info("ready", models=list(self._lanes))

    def stop(self) -> None:
        """Drain, hand back, and end every thread, in that order."""
        self.intake.stop(timedelta(seconds=self._config.drain_seconds * _DRAIN_SHARE))
        self._heartbeat.stop()
        self._device.stop()
        self._listener.close()
        self._signals.close()
        for thread in self._threads:
            thread.join(timeout=2)

    def _load_models(self) -> dict[str, Lane]:
        """Load, warm up and offer every model that can be had; say of the others why not."""
        loaded: list[tuple[ModelSource, LoadedModel]] = []
        failed: dict[str, str] = {}
        for source in self._config.sources:
            try:
                loaded.append((source, _load(source, self._config)))
            except ModelUnavailable as error:
                failed[source.name] = str(error)
                log.error("model unavailable", model=source.name, reason=str(error))
        lanes = {source.name: self._lane(source.name, model) for source, model in loaded}
        self._offer([_version(source.name, model, self._store(model)) for source, model in loaded], failed)
        return lanes

    def _store(self, model: LoadedModel) -> str:
        return ArtifactStore(self._config.artifacts).put(model.tokenizer_json)

    def _lane(self, name: str, model: LoadedModel) -> Lane:
        engine = Engine(model.model, model.tokenizer, self._config.slots, self._config.rows_per_step)
        engine.warm_up()
        return Lane(name, engine, model.tokenizer, model.digest, self._busy)

    def _offer(self, versions: list[ModelVersion], failed: dict[str, str]) -> None:
        while True:
            try:
                with self._database.transaction() as connection:
                    catalog.offer(connection, self._config.worker, versions, failed)
                return
            except DatabaseUnavailable as error:
                log.warning("waiting for the database", error=str(error))
                time.sleep(_RETRY_SECONDS)


def _load(source: ModelSource, config: Settings) -> LoadedModel:
    began = time.monotonic()
    model = load(source.source, source.quantization, config.device, config.hf_token)
    seconds = round(time.monotonic() - began, 2)
    log.info("model loaded", model=source.name, quantization=model.quantization, seconds=seconds)
    return model


def _version(name: str, model: LoadedModel, tokenizer: str) -> ModelVersion:
    return ModelVersion(
        name=name,
        digest=model.digest,
        quantization=model.quantization,
        parameters=model.parameters,
        context=model.context,
        vocab_size=model.vocab_size,
        eos_token_id=model.eos_token_id,
        tokenizer=tokenizer,
        chat_template=model.chat_template,
    )


def _end_process(crash: threading.ExceptHookArgs) -> None:
    """A thread that died leaves half a worker: end all of it, and let the supervisor start a whole one."""
    log.error("thread died", thread=crash.thread and crash.thread.name, exc_info=crash.exc_value)
    os._exit(1)


def main() -> None:
    """Run until SIGTERM: load, serve, drain."""
    threading.excepthook = _end_process
    config = settings.read()
    logs.configure("worker", config.log_level)
    torch.set_num_threads(config.torch_threads or os.cpu_count() or 1)
    worker = Worker(config)
    celery = make_celery(config)

    @celery.task(name=DOORBELLS[QueueName.GENERATE])  # type: ignore[untyped-decorator]
    def drain() -> None:
        """Somebody rang. Returns at once: intake claims from SQL, and would have looked within a second."""
        worker.intake.wake()

    worker_shutting_down.connect(lambda **_: log.info("stopping"), weak=False)
    worker.start()
    try:
        celery.worker_main(
            ["--quiet", "worker", "--queues", QueueName.GENERATE, "-n", f"worker@{config.worker}", *QUIET]
        )
    finally:
        worker.stop()


if __name__ == "__main__":
    main()
