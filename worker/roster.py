"""The names that this worker serves: offers the models of MODELS and the published ones, or says why not."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from jobs import catalog, lifecycle
from jobs.artifacts import ArtifactStore
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, ModelUnavailable
from jobs.queue import QueueName
from jobs.settings import ModelSource, Settings
from worker.adapters import Adapter, is_adapter, read_adapter, read_config
from worker.arrivals import Arrivals
from worker.lanes import Lane, Served
from worker.loading import named
from worker.model import Architecture
from worker.names import Names
from worker.opening import Opener, why
from worker.residents import Residents
from worker.shelf import Shelf
from worker.standing import Standing

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0
_LATE_SECONDS = 30.0  # web hears within a second or two that a name is offered no more
_DELETED = "The model was deleted."


class Roster:
    """What jobs may ask for, by name, and the lanes behind the names.

    The first model is loaded before it is offered, so that a worker which says it is ready answers at once;
    the others when a job waits for them, since memory is for the models that are used.
    """

    def __init__(self, config: Settings, database: Database, busy: threading.Event) -> None:
        self.answers = Names()
        self._opener = Opener(config, busy)
        self.residents = Residents(config, self._opener.budget, busy)
        shelf = Shelf(config.var_dir / "models", ArtifactStore(config.artifacts), config.worker)
        self._arrivals = Arrivals(config, self.answers, self.residents, self._opener, shelf)
        self._config = config
        self._database = database
        self._failed: dict[str, str] = {}
        self._undecided = {source.name for source in config.sources}
        self._lock = threading.Lock()  # over the two above: several threads offer and decide
        self._withdrawn: dict[str, tuple[str, float]] = {}  # why, and until when jobs may still come for it
        self._unheard: list[str] | None = (
            None  # names that went; None: nothing has changed since the last offer
        )
        self._begun = False  # the first model was decided on
        self._changed: Callable[[], None] = lambda: None

    @property
    def served(self) -> Mapping[str, Served]:
        """What answers to each name that needs at most to be loaded."""
        return self.answers.served

    @property
    def closed(self) -> set[str]:
        """The names of published models that must be opened first."""
        return self._arrivals.closed if self._begun else set()

    def names(self, lane: Lane) -> list[str]:
        """Those that a lane answers to: its own, and its adapters'."""
        return self.answers.of(lane)

    def serving(self, name: str, before: Mapping[str, Served]) -> Served:
        """What answers to a name, now or before, and is loaded. Raises ModelUnavailable where nothing is."""
        for served in (self.served.get(name), before.get(name)):
            if served is not None and served.lane.engine is not None:
                return served
        raise ModelUnavailable(_DELETED)

    def open(self, changed: Callable[[], None]) -> None:
        """Describe and offer every model that can be had, and load the first.

        Folders come first, since the Hub may take long. `changed` is called whenever something can be served.
        """
        self._changed = changed
        _until_heard(lambda: self._arrivals.follow(self._database))
        self._arrivals.tidy()
        self._offer_until_heard()
        for base, adapters in self._families():
            with self._failing([base.name, *(adapter.name for adapter in adapters)]):
                self._take(base, adapters)
            self._offer_until_heard()
            self._begun = True
            changed()
        self._begun = True
        log.info("ready", models=list(self.served), published=len(self.closed))

    def offer(self, database: Database) -> None:
        """Say what this worker has, and what it has not and why.

        Raises:
            DatabaseUnavailable: nobody heard it.
        """
        with self._lock, database.transaction() as connection:
            versions = {name: s.version for name, s in self.served.items() if not self._arrivals.knows(name)}
            standing = self._arrivals.standing(Standing(versions, self._failed, self._undecided))
            said = (list(standing.versions.values()), standing.failed, standing.loading)
            catalog.offer(connection, self._config.worker, *said)

    def follow(self, database: Database) -> None:
        """Offer what was published since the last time, and no more what was removed.

        Raises:
            DatabaseUnavailable: nobody knows, or nobody heard it.
        """
        gone = self._arrivals.follow(database)
        if gone is not None:
            self._unheard = [*(self._unheard or []), *gone]
        if self._unheard is not None:
            self.offer(database)
            self._withdraw(self._unheard, _DELETED)
            self._unheard = None
            self._changed()

    def want(self, names: Collection[str]) -> bool:
        """Have the models of these names loaded, who waited longest first; returns whether one is missing.

        See `Residents.want`, and there why only the thread that submits may call it.
        """
        served = self.served
        lanes = dict.fromkeys(served[name].lane for name in names if name in served)
        absent = [lane for lane in lanes if lane.engine is None]
        self.residents.want(absent, self._could_not_load, self._changed)
        if self._begun:
            self._arrivals.want(names, self._could_not_open, self._changed)
        return bool(absent) or any(name not in served for name in names)

    def turn_away(self, database: Database) -> None:
        """Fail the jobs that wait in vain for what was offered until it could not be had.

        To be called again and again: web takes some more until it has heard.

        Raises:
            DatabaseUnavailable: some are left.
        """
        for name, (reason, until) in list(self._withdrawn.items()):
            with database.transaction() as connection:
                lifecycle.fail_unloadable(connection, QueueName.GENERATE, name, reason)
            if time.monotonic() > until:
                self._withdrawn.pop(name, None)

    def _could_not_load(self, lane: Lane, error: Exception) -> None:
        said = self._arrivals.could_not_load(lane, error)
        if said is None:
            return
        names, reason = said
        own = [name for name in self.names(lane) if not self._arrivals.knows(name)]
        if own:
            self._give_up(own, error)
            names = [*own, *self._arrivals.over(own)]
        self._could_not_open(names, reason)

    def _could_not_open(self, names: list[str], reason: str) -> None:
        self._offer_until_heard()
        self._withdraw(names, reason)  # now that no job is for us any more

    def _withdraw(self, names: Iterable[str], reason: str) -> None:
        until = time.monotonic() + _LATE_SECONDS
        self._withdrawn = {**self._withdrawn, **dict.fromkeys(names, (reason, until))}

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
        description = self._opener.describe(source)
        adapters = self._adapters(adapter_sources, description.architecture)
        lane = self._opener.lane(source, description, adapters.values())
        if not self.served:
            self.residents.load(lane)
        version = self._version(lane)
        served = {source.name: Served(version, lane)}
        for name, adapter in adapters.items():
            own = replace(version, name=name, digest=adapter.digest_over(description.digest))
            served[name] = Served(own, lane, adapter)
        self.residents.add(lane)
        with self._lock:
            self.answers.add(served)
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
        reason = why(names, error)
        with self._lock:
            self.answers.remove(names)
            self._undecided -= set(names)
            self._failed |= {name: self._failed.get(name, reason) for name in names}

    def _offer_until_heard(self) -> None:
        _until_heard(lambda: self.offer(self._database))


def _until_heard(say: Callable[[], object]) -> None:
    while True:
        try:
            say()
            return
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
