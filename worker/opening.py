"""Makes lanes of models' folders: described, with as many slots as memory has, and not loaded yet."""

import threading
from collections.abc import Collection, Mapping

import structlog
import torch

from jobs.errors import ModelUnavailable
from jobs.settings import ModelSource, Settings
from worker import memory
from worker.adapters import Adapter
from worker.lanes import Lane
from worker.loading import Description, describe, named
from worker.memory import Need
from worker.quantize.methods import Method, choose_method
from worker.receipt import device_name

log = structlog.get_logger(__name__)


class Opener:
    """What this host makes of a model: its device, its default quantization, its memory."""

    def __init__(self, config: Settings, busy: threading.Event) -> None:
        self._on_cuda = on_cuda = config.device != "cpu" and torch.cuda.is_available()
        self.budget = memory.budget(config.memory_gb, on_cuda)  # bytes
        self._device = device_name(on_cuda)
        self._config = config
        self._busy = busy

    @property
    def method(self) -> Method:
        """The quantization of a model for which none was asked."""
        return choose_method(None, "cuda" if self._on_cuda else "cpu")

    def describe(self, source: ModelSource, files: Mapping[str, str] | None = None) -> Description:
        """What the folder says; `files` as for `loading.describe`. Raises ModelUnavailable."""
        config = self._config
        return describe(source.source, source.quantization, config.device, config.hf_token, files)

    def lane(self, source: ModelSource, description: Description, adapters: Collection[Adapter] = ()) -> Lane:
        """A lane whose adapters will need memory, too. Raises ModelUnavailable."""
        with named(source.source):
            need = self._need(source, description, adapters)
        return Lane(source, description, need, self._device, self._busy)

    def _need(self, source: ModelSource, description: Description, adapters: Collection[Adapter]) -> Need:
        slots = self._config.slots
        need = memory.estimate(description, adapters, slots, self._config.rows_per_step)
        need = memory.fitted(need, slots, self.budget)
        if need.slots < slots:
            log.warning(
                "fewer slots, memory is short",
                model=source.name,
                slots=need.slots,
                wanted=slots,
                budget_gb=self.budget / 1e9,
            )
        return need


def why(names: Collection[str], error: Exception) -> str:
    """Say in one sentence why models cannot be had; the log says more."""
    if isinstance(error, ModelUnavailable):
        log.error("model unavailable", models=names, reason=str(error))
        return str(error)
    log.error("model could not be loaded", models=names, exc_info=error)
    return "It could not be loaded; the worker's log says why."
