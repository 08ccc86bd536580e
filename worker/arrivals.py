"""The models that were published: offered by name alone, opened when a job waits, closed when they rest."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from jobs import published
from jobs.database import Database
from jobs.errors import ModelUnavailable
from jobs.published import Published
from jobs.settings import ModelSource, Settings
from worker import memory
from worker.adapters import Adapter, read_adapter
from worker.lanes import MOST_ADAPTERS, Lane, Served
from worker.loading import named
from worker.names import Names
from worker.opening import Opener, why
from worker.residents import Residents
from worker.shelf import NotFetched, Shelf
from worker.standing import Standing

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 60.0  # after a fetch that failed because of the store or the disk
_AHEAD = 4  # models that are described before there is room for them: each keeps its tokenizer meanwhile


class Arrivals:
    """Follows the catalog; a name is known, then opened, and closed once its model has left memory.

    What is closed costs nothing but its folder: hundreds may rest beside the few that are used.
    """

    def __init__(
        self, config: Settings, names: Names, residents: Residents, opener: Opener, shelf: Shelf
    ) -> None:
        self._own = {source.name for source in config.sources}
        self._slots = config.slots
        self._names = names
        self._residents = residents
        self._opener = opener
        self._shelf = shelf
        self._following = threading.Lock()  # what was read last counts
        self._lock = threading.RLock()  # over all below
        self._mark: tuple[int, int] | None = None
        self._known: Mapping[str, Published] = {}  # replaced, never changed
        self._offered: frozenset[str] = frozenset()  # of those, likewise
        self._failed: dict[str, str] = {}
        self._again: dict[str, float] = {}  # when some of those are offered again, time.monotonic()
        self._short: dict[str, int] = {}  # slots of those for which memory turned out to be short
        self._opened: dict[str, Served] = {}
        self._used: dict[str, float] = {}  # of those: when a job last waited, time.monotonic()
        self._retired: list[Lane] = []  # their models are closed or gone
        self._fetched: set[str] = set()  # digests of folders that this process has fetched
        self._opening = False

    @property
    def closed(self) -> set[str]:
        """The names that can be opened."""
        return set(self._offered - self._names.served.keys())

    def knows(self, name: str) -> bool:
        """Whether a name is of a published model, and not of MODELS."""
        return name in self._known or name in self._opened

    def follow(self, database: Database) -> list[str] | None:
        """Look whether something was published or removed: the names that are gone, None if nothing was.

        Raises:
            DatabaseUnavailable: nobody knows.
        """
        with self._following:
            self._forgive()
            with database.reading() as connection:
                mark = published.mark(connection)
                if mark == self._mark:
                    return None
                everybody = {p.version.name: p for p in published.list_all(connection)}
            known = {name: one for name, one in everybody.items() if name not in self._own}
            with self._lock:
                before, self._known, self._mark = self._known, known, mark
                gone = [name for name, one in before.items() if not _is_same(one, known.get(name))]
                self._offered -= frozenset(gone)
                self._close(gone)
                for name in gone:
                    self._failed.pop(name, None)
                    self._again.pop(name, None)
                    self._short.pop(name, None)
            kept = {one.version.digest for one in known.values()}
            self._shelf.discard({before[name].version.digest for name in gone} - kept)
        return [name for name in gone if name not in known]

    def tidy(self) -> None:
        """Remove the folders of models that went while no worker looked."""
        self._shelf.tidy({one.version.digest for one in self._known.values()})

    def standing(self, own: Standing) -> Standing:
        """What is to be said of everybody, beside the entries of MODELS."""
        found = Standing(dict(own.versions), dict(own.failed), set(own.loading))
        with self._lock:
            for model in sorted(self._known.values(), key=lambda model: model.base is not None):
                name = model.version.name
                if name in self._failed:
                    found.failed[name] = self._failed[name]
                elif model.base is not None:
                    found.add_adapter(model, self._digests(model.base))
                else:
                    found.add_whole(model, self._opener.method, self._short.get(name, self._slots))
            self._offered = frozenset(found.versions.keys() & self._known.keys())
        return found

    def want(
        self,
        waiting: Collection[str],
        failed: Callable[[list[str], str], None],
        changed: Callable[[], None],
    ) -> None:
        """Open the first of these, who waited longest first; close what rests.

        `failed` hears of names that cannot be had, and why. Called again and again by the one thread that
        submits, after `Residents.want`.
        """
        with self._lock:
            self._used |= dict.fromkeys(self._opened.keys() & set(waiting), time.monotonic())
            self._retired = [lane for lane in self._retired if not self._residents.dismiss(lane)]
            if self._opening:
                return
            self._close(self._resting(waiting))
            name = next(self._openable(waiting), None)
            self._opening = name is not None
        if name is not None:
            arguments = (name, failed, changed)
            threading.Thread(target=self._try, args=arguments, name="loader", daemon=True).start()

    def could_not_load(self, lane: Lane, error: Exception) -> tuple[list[str], str] | None:
        """A model was opened and its numbers cannot be used: the names that shall not be had, and why.

        None: its folder lay here before, and is fetched again.
        """
        with self._lock:
            names = [name for name, served in self._opened.items() if served.lane is lane]
            whole = [name for name in names if self._opened[name].adapter is None]
            self._close(names)
            for name in whole:
                if (model := self._known.get(name)) is not None and self._fetch_again(model, error):
                    return None
                return self._give_up(name, error)
            return names, why(names, error)

    def over(self, bases: Collection[str]) -> list[str]:
        """The adapters over models of these names."""
        return [name for name, one in self._known.items() if one.base in bases]

    def _forgive(self) -> None:
        """Let those be offered again that could not be fetched a while ago."""
        with self._lock:
            for name in [name for name, at in self._again.items() if at <= time.monotonic()]:
                del self._again[name]
                self._failed.pop(name, None)
                self._mark = None

    def _try(self, name: str, failed: Callable[[list[str], str], None], changed: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            self._open(name)
            log.info("model opened", model=name, seconds=round(time.monotonic() - began, 2))
        except Exception as error:  # noqa: BLE001  one model must not take the others along
            failed(*self._give_up(name, error))
        with self._lock:
            self._opening = False
        changed()

    def _open(self, name: str) -> Served:
        """Let a name be served. Raises ModelUnavailable."""
        served, model = self._names.served.get(name), self._known.get(name)
        if served is not None:
            return served
        if model is None:
            raise ModelUnavailable("it was deleted.")
        if model.base is None:
            served = self._read(model, partial(self._whole, model))
        else:
            served = self._read(model, partial(self._adapter, model, self._open(model.base)))
        with self._lock:
            if self._known.get(name) is not model and not _is_same(model, self._known.get(name)):
                raise ModelUnavailable("it was deleted.")
            if served.adapter is None:
                self._residents.add(served.lane)
            self._opened[name], self._used[name] = served, time.monotonic()
            self._names.add({name: served})
        return served

    def _read(self, model: Published, read: Callable[[Path], Served]) -> Served:
        """What is in its folder, which is fetched again if it was here before and cannot be read."""
        if not self._shelf.has(model):
            self._fetched.add(model.version.digest)
        try:
            return read(self._shelf.fetch(model))
        except ModelUnavailable as error:
            if not self._fetch_again(model, error):
                raise
        return read(self._shelf.fetch(model))

    def _fetch_again(self, model: Published, error: Exception) -> bool:
        """Throw its folder away unless this process has fetched it already; returns whether it did."""
        if model.version.digest in self._fetched:
            return False
        log.warning("fetching a model again", model=model.version.name, error=str(error))
        self._shelf.discard([model.version.digest])
        return True

    def _whole(self, model: Published, folder: Path) -> Served:
        version, source = model.version, ModelSource(model.version.name, str(folder), None)
        description = self._opener.describe(source, model.files)
        if description.digest != version.digest:  # a release may write tokenizers in another way
            log.warning("the digest is not the published one", model=version.name, digest=description.digest)
        lane = self._opener.lane(source, description)
        if lane.need.slots < self._short.get(version.name, self._slots):
            with self._lock:
                self._short[version.name], self._mark = lane.need.slots, None  # offered anew
        known = replace(version, quantization=description.quantization, slots=lane.need.slots)
        return Served(known, lane)

    def _adapter(self, model: Published, over: Served, folder: Path) -> Served:
        if over.adapter is not None:
            raise ModelUnavailable(f"its base '{over.version.name}' is an adapter itself.")
        with named(str(folder)):
            adapter = read_adapter(folder, over.lane.description.architecture)
        self._make_room(adapter, over.lane)
        known = replace(model.version, quantization=over.version.quantization, slots=over.version.slots)
        return Served(known, over.lane, adapter)

    def _digests(self, name: str) -> set[str]:
        """By which a base can be known; none where it is an adapter."""
        if (model := self._known.get(name)) is not None:
            return set() if model.base else {model.version.digest}
        served = self._names.served.get(name)
        if served is None or served.adapter is not None:
            return set()
        described = served.lane.description
        return {described.digest, described.original or described.digest}

    def _make_room(self, adapter: Adapter, lane: Lane) -> None:
        """Close adapters of a lane, the least recently used first. Raises ModelUnavailable."""
        # with one slot, since it is loaded with fewer the next time; until then others make room
        room = memory.room_beside(lane.need, self._opener.budget) - memory.adapter_bytes([adapter])
        if room < 0:
            raise ModelUnavailable("memory has no room for it beside its base model: raise MEMORY_GB.")
        with self._lock:
            guests = [name for name, served in self._opened.items() if served.lane is lane and served.adapter]
            guests.sort(key=lambda name: self._used[name])
            while guests and (len(guests) >= MOST_ADAPTERS or lane.guest_bytes > room):
                self._close([guests.pop(0)])
            lane.welcome(adapter)

    def _resting(self, waiting: Collection[str]) -> list[str]:
        """The opened names whose model is not in memory, and that no job waits for."""
        served = self._names.served
        wanted = {served[name].lane for name in waiting if name in served} | {self._residents.loading}
        resting = ((name, one.lane) for name, one in self._opened.items())
        return [name for name, lane in resting if lane.engine is None and lane not in wanted]

    def _openable(self, waiting: Iterable[str]) -> Iterator[str]:
        """Those that a job waits for; a model only while few others are described and wait for memory."""
        closed, lanes = self.closed, {served.lane for served in self._opened.values()}
        is_crowded = sum(lane.engine is None for lane in lanes) >= _AHEAD
        for name in waiting:
            if name in closed and (self._known[name].base in self._names.served or not is_crowded):
                yield name

    def _close(self, names: Iterable[str]) -> None:
        """Let these be served no more, and the adapters over them."""
        closing = {name: self._opened[name] for name in names if name in self._opened}
        lanes = {served.lane for served in closing.values() if served.adapter is None}
        closing |= {name: served for name, served in self._opened.items() if served.lane in lanes}
        self._names.remove(closing)
        self._retired += lanes
        for name in closing:
            del self._opened[name]
            self._used.pop(name, None)

    def _give_up(self, name: str, error: Exception) -> tuple[list[str], str]:
        """Remember why a model cannot be had; returns the names that its jobs go by, and why."""
        with self._lock:
            model = self._known.get(name)
            reason = why([name], error)
            if model is not None:
                reason = reason.removeprefix(f"{self._shelf.place(model)}: ")
                self._failed[name] = reason
                if isinstance(error, NotFetched):
                    self._again[name] = time.monotonic() + _AGAIN_SECONDS
            return [name, *self.over([name])], reason


def _is_same(one: Published, other: Published | None) -> bool:
    return other is not None and (one.version.digest, one.files) == (other.version.digest, other.files)
