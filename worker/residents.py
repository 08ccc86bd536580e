"""Which models are in memory: loads those that jobs wait for, lets the least recently used go for them."""

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from jobs.errors import ModelUnavailable, NumericalError
from jobs.settings import Settings
from worker import memory
from worker.breakdown import is_device_lost
from worker.engine import Engine
from worker.lanes import Lane
from worker.loading import give_back, load

log = structlog.get_logger(__name__)

_PATIENCE = 10.0  # seconds that jobs wait for a model before busy ones take no more, to make room for it


class Residents:
    """The models that are loaded, within a budget of memory.

    Who has a sequence in its batch stays. A model that does not fit beside the busy ones waits; after a
    while those take no more jobs until it has had its turn.
    """

    def __init__(self, config: Settings, budget: int, busy: threading.Event) -> None:
        self.budget = budget  # bytes
        self.lanes: tuple[Lane, ...] = ()  # loaded or not; replaced, never changed
        self.loading: Lane | None = None
        self._lock = threading.Lock()  # for whoever replaces `lanes`
        self._config = config
        self._busy = busy
        self._leaving: list[Engine] = []
        self._gone = threading.Event()  # nobody is leaving
        self._gone.set()

    @property
    def loaded(self) -> list[Lane]:
        """Those that can step."""
        return [lane for lane in self.lanes if lane.engine is not None]

    def add(self, lane: Lane) -> None:
        """Another model that jobs may want."""
        with self._lock:
            self.lanes += (lane,)

    def load(self, lane: Lane) -> None:
        """Load and warm up a model that has room. Raises ModelUnavailable, and what torch raises."""
        began = time.monotonic()
        self._gone.wait()
        config, source = self._config, lane.source
        model = load(
            source.source, source.quantization, config.device, config.hf_token, config.kernel, config.threads
        )
        if model.digest != lane.description.digest:
            raise ModelUnavailable(
                f"{source.source}: its files have changed since the worker started; restart it."
            )
        need = replace(lane.need, slot=model.model.slot_bytes)  # until now it was an estimate
        lane.need = memory.fitted(need, lane.most_slots, self.budget - lane.guest_bytes)
        engine = Engine(model.model, model.tokenizer, lane.need.slots, config.rows_per_step)
        try:
            engine.warm_up()
        except NumericalError as error:
            raise ModelUnavailable(
                f"{source.source}: its logits are not finite in {model.quantization}, since its weights are"
                " too large; take another quantization or train it again."
            ) from error
        lane.start(engine, model.path)
        seconds = round(time.monotonic() - began, 2)
        log.info("model loaded", model=source.name, quantization=model.quantization, seconds=seconds)

    def want(
        self, wanted: list[Lane], failed: Callable[[Lane, Exception], None], changed: Callable[[], None]
    ) -> None:
        """Load the first of these, who waited longest first, that has room; then say how it went.

        Called again and again by the one thread that submits, so that nobody joins a lane that is to leave.
        """
        now = time.monotonic()
        for lane in self.lanes:
            lane.drains = False
            lane.wanted_at = (lane.wanted_at or now) if lane in wanted else None
        self._shrink()
        if self.loading is not None or not wanted:
            return
        for lane in wanted:
            if self._make_room(lane):
                self.loading = lane
                arguments = (lane, failed, changed)
                threading.Thread(target=self._load, args=arguments, name="loader", daemon=True).start()
                return
        first = min(wanted, key=lambda lane: lane.wanted_at or now)
        if now - (first.wanted_at or now) >= _PATIENCE:
            self._drain_for(first)

    def dismiss(self, lane: Lane) -> bool:
        """Forget a model for good, once nobody is in its batch; returns whether that is so.

        For the one thread that submits.
        """
        if lane is self.loading or not lane.idle:
            return False
        with self._lock:
            self.lanes = tuple(other for other in self.lanes if other is not lane)
        if lane.engine is not None:
            self._send_away([lane])
        return True

    def release(self) -> None:
        """Let go of the models that shall leave. For the thread that owns the device, between two steps."""
        if self._gone.is_set():
            return
        self._leaving.clear()
        gc.collect()  # a cycle would keep the weights until somebody else's garbage is collected
        give_back()
        self._gone.set()

    def _load(
        self, lane: Lane, failed: Callable[[Lane, Exception], None], changed: Callable[[], None]
    ) -> None:
        try:
            self.load(lane)
        except Exception as error:  # one model must not take the others along
            if is_device_lost(error):
                raise  # whoever ends the process hands its jobs up
            with self._lock:
                self.lanes = tuple(other for other in self.lanes if other is not lane)
            failed(lane, error)
        self.loading = None
        changed()

    def _make_room(self, lane: Lane) -> bool:
        """Send away who was used least recently of the idle, if that gives enough; returns whether it did."""
        loaded = self.loaded
        needed = min(lane.total, self.budget)  # with adapters that came since it has fewer slots
        room = self.budget - sum(other.total for other in loaded)
        leaving = []
        for other in sorted((other for other in loaded if other.idle), key=lambda other: other.used_at):
            if room >= needed:
                break
            leaving.append(other)
            room += other.total
        if room < needed:
            return False
        self._send_away(leaving)
        return True

    def _shrink(self) -> None:
        """Let idle ones go where adapters that came since have made the others too large."""
        over = sum(lane.total for lane in self.loaded) - self.budget
        leaving = []
        for lane in sorted((lane for lane in self.loaded if lane.idle), key=lambda lane: lane.used_at):
            if over > 0:
                over -= lane.total
                leaving.append(lane)
        self._send_away(leaving)

    def _send_away(self, leaving: list[Lane]) -> None:
        """Take the engines of idle lanes; their memory is free once `release` was called."""
        for lane in leaving:
            log.info("model leaves", model=lane.source.name)
            self._leaving.append(lane.stop())
        if leaving:
            self._gone.clear()
            self._busy.set()

    def _drain_for(self, lane: Lane) -> None:
        """Let as many of the loaded as are needed take no more jobs, who was loaded first first."""
        room = self.budget - sum(other.total for other in self.loaded)
        for other in sorted(self.loaded, key=lambda other: other.loaded_at):
            if room >= lane.total:
                return
            other.drains = True
            room += other.total
