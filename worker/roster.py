"""The names that this worker serves: describes and offers the models of MODELS, or says why it cannot."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog
import torch
from sqlalchemy import Connection

from jobs import catalog, lifecycle
from jobs.artifacts import ArtifactStore
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, ModelUnavailable
from jobs.queue import QueueName
from jobs.settings import ModelSource, Settings
from worker import memory
from worker.adapters import Adapter, is_adapter, read_adapter, read_config
from worker.lanes import Lane, Served
from worker.loading import describe, named
from worker.model import Architecture
from worker.receipt import device_name
from worker.residents import Residents

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0


class Roster:
    """What jobs may ask for, by name, and the lanes behind the names.

    The first model is loaded before it is offered, so that a worker which says it is ready answers at once;
    the others when a job waits for them, since memory is for the models that are used.
    """

    def __init__(self, config: Settings, database: Database, busy: threading.Event) -> None:
        on_cuda = config.device != "cpu" and torch.cuda.is_available()
        self._device = device_name(on_cuda)
        self.residents = Residents(config, memory.budget(config.memory_gb, on_cuda), busy)
        self.served: dict[str, Served] = {}  # replaced, never changed
        self._config = config
        self._database = database
        self._busy = busy
        self._failed: dict[str, str] = {}
        self._undecided = {source.name for source in config.sources}
        self._lock = threading.Lock()  # over the three above: several threads offer and decide
        self._withdrawn: tuple[str, ...] = ()  # of the failed, what was offered first; only ever replaced
        self._changed: Callable[[], None] = lambda: None

    def names(self, lane: Lane) -> list[str]:
        """Those that a lane answers to: its own, and its adapters'."""
        return [name for name, served in self.served.items() if served.lane is lane]

    def open(self, changed: Callable[[], None]) -> None:
        """Describe and offer every model that can be had, and load the first.

        Folders come first, since the Hub may take long. `changed` is called whenever something can be served.
        """
        self._changed = changed
        self._offer_until_heard()
        for base, adapters in self._families():
            with self._failing([base.name, *(adapter.name for adapter in adapters)]):
                self._take(base, adapters)
            self._offer_until_heard()
            changed()
        log.info("ready", models=list(self.served))

    def offer(self, database: Database) -> None:
        """Say what this worker has, and what it has not and why.

        Raises:
            DatabaseUnavailable: nobody heard it.
        """
        with self._lock, database.transaction() as connection:
            versions = [served.version for served in self.served.values()]
            catalog.offer(connection, self._config.worker, versions, self._failed, self._undecided)

    def want(self, names: Iterable[str]) -> bool:
        """Have the models of these names loaded, who waited longest first; returns whether one is missing.

        See `Residents.want`, and there why only the thread that submits may call it.
        """
        served = self.served
        lanes = dict.fromkeys(served[name].lane for name in names if name in served)
        absent = [lane for lane in lanes if lane.engine is None]
        self.residents.want(absent, self._could_not_load, self._changed)
        return bool(absent)

    def turn_away(self, connection: Connection) -> None:
        """Fail the jobs that wait in vain for what was offered until it could not be loaded.

        To be called again and again: web takes some more until it has heard.
        """
        for name in self._withdrawn:
            lifecycle.fail_unloadable(connection, QueueName.GENERATE, name, self._failed[name])

    def _could_not_load(self, lane: Lane, error: Exception) -> None:
        names = self.names(lane)
        self._give_up(names, error)
        self._offer_until_heard()
        self._withdrawn = (*self._withdrawn, *names)  # now that no job is for us any more

    def _families(self) -> list[tuple[ModelSource, list[ModelSource]]]:
        """Each model with the adapters over it; an adapter without a model has failed."""
        adapters = [source for source in self._config.sources if is_adapter(_folder(source))]
        bases = [source for source in self._config.sources if source not in adapters]
        bases.sort(key=lambda source: not _folder(source).is_dir())
        over: dict[str, list[ModelSource]] = {base.name: [] for base in bases}
        for adapter in adapters:
            with self._failing([adapter.name]), named(adapter.source):
                over[_base_of(adapter, bases).name].append(adapter)
        return [(base, over[base.name]) for base in bases]

    def _take(self, source: ModelSource, adapter_sources: list[ModelSource]) -> None:
        """Serve a model and its adapters. Raises ModelUnavailable."""
        config = self._config
        description = describe(source.source, source.quantization, config.device, config.hf_token)
        adapters = self._adapters(adapter_sources, description.architecture)
        with named(source.source):
            need = memory.estimate(description, adapters.values(), config.slots, config.rows_per_step)
            need = memory.fitted(need, config.slots, self.residents.budget)
            if need.slots < config.slots:
                log.warning(
                    "fewer slots, memory is short",
                    model=source.name,
                    slots=need.slots,
                    wanted=config.slots,
                    budget_gb=self.residents.budget / 1e9,
                )
        lane = Lane(source, description, need, self._device, self._busy)
        if not self.served:
            self.residents.load(lane)
        version = self._version(lane)
        served = {source.name: Served(version, lane)}
        for name, adapter in adapters.items():
            own = replace(version, name=name, digest=adapter.digest_over(description.digest))
            served[name] = Served(own, lane, adapter)
        self.residents.add(lane)
        with self._lock:
            self.served = self.served | served
            self._undecided -= served.keys()

    def _adapters(self, sources: list[ModelSource], architecture: Architecture) -> dict[str, Adapter]:
        """Those that can be had."""
        found: dict[str, Adapter] = {}
        for source in sources:
            with self._failing([source.name]), named(source.source):
                found[source.name] = read_adapter(_folder(source), architecture)
        return found

    def _version(self, lane: Lane) -> ModelVersion:
        description = lane.description
        return ModelVersion(
            name=lane.source.name,
            digest=description.digest,
            quantization=description.quantization,
            parameters=description.parameters,
            context=description.context,
            vocab_size=description.vocab_size,
            eos_token_id=description.eos_token_id,
            tokenizer=ArtifactStore(self._config.artifacts).put(description.tokenizer_json),
            chat_template=description.chat_template,
            slots=lane.need.slots,
        )

    @contextmanager
    def _failing(self, names: list[str]) -> Iterator[None]:
        """What is raised inside is why these names cannot be served; the others go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  one model must not take the others along
            self._give_up(names, error)

    def _give_up(self, names: list[str], error: Exception) -> None:
        if isinstance(error, ModelUnavailable):
            reason = str(error)
            log.error("model unavailable", models=names, reason=reason)
        else:
            reason = "It could not be loaded; the worker's log says why."
            log.error("model could not be loaded", models=names, exc_info=error)
        with self._lock:
            self.served = {name: served for name, served in self.served.items() if name not in names}
            self._undecided -= set(names)
            self._failed |= {name: self._failed.get(name, reason) for name in names}

    def _offer_until_heard(self) -> None:
        while True:
            try:
                return self.offer(self._database)
            except DatabaseUnavailable as error:
                log.warning("waiting for the database", error=str(error))
                time.sleep(_RETRY_SECONDS)


def _folder(source: ModelSource) -> Path:
    return Path(source.source).expanduser()


def _base_of(adapter: ModelSource, bases: list[ModelSource]) -> ModelSource:
    """The entry that an adapter was trained over. Raises ModelUnavailable."""
    if adapter.quantization is not None:
        raise ModelUnavailable(
            f"it is an adapter, which runs over its model's own numbers; leave @{adapter.quantization} out."
        )
    asked = read_config(_folder(adapter)).base_model_name_or_path
    for base in bases:
        if asked in (base.name, base.source) or Path(asked).expanduser().resolve() == _folder(base).resolve():
            return base
    raise ModelUnavailable(
        f"its base_model_name_or_path is {asked!r}, which is neither the name nor the source of another entry"
        " of MODELS; add one, or correct it in adapter_config.json."
    )
