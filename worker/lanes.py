"""The models of this worker: loads them one after the other, and offers each as soon as it can serve."""

import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from pathlib import Path

import structlog
from tokenizers import Tokenizer

from jobs import catalog
from jobs.artifacts import ArtifactStore
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, ModelUnavailable
from jobs.settings import ModelSource, Settings
from worker.engine import Engine
from worker.loading import LoadedModel, load
from worker.sequence import Sequence

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 1.0


@dataclass(eq=False)
class Lane:
    """One model, its engine, and what intake must know of it."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    digest: str
    busy: threading.Event  # the device thread's alarm clock, shared by all lanes

    def submit(self, sequences: Several[Sequence]) -> None:
        """Hand sequences to the engine; they join its batch at the next step.

        Raises:
            InvalidPrompt: one of them does not fit the model.
        """
        try:
            for sequence in sequences:
                self.engine.submit(sequence)
        finally:
            self.busy.set()


class Lanes(dict[str, Lane]):
    """The lanes that can serve, by name; it grows while others already run."""

    def __init__(self, config: Settings, busy: threading.Event) -> None:
        super().__init__()
        self._config = config
        self._busy = busy
        self._versions: list[ModelVersion] = []
        self._failed: dict[str, str] = {}
        self._loading = {source.name for source in config.sources}
        self._lock = threading.Lock()  # over the three above: the heartbeat repeats what the loader says

    def load(self, database: Database, loaded: Callable[[], None]) -> None:
        """Load, warm up and offer every model that can be had; say of the others why not.

        Folders come first, since the Hub may take long. `loaded` is called after each.
        """
        self._offer_until_heard(database)
        for source in sorted(self._config.sources, key=lambda source: not Path(source.source).is_dir()):
            try:
                self._add(source)
            except ModelUnavailable as error:
                log.error("model unavailable", model=source.name, reason=str(error))
                self._decide(source.name, reason=str(error))
            except Exception:  # one model must not take the others along
                log.exception("model could not be loaded", model=source.name)
                self._decide(
                    source.name, reason=f"{source.source}: it could not be loaded; the log says why."
                )
            self._offer_until_heard(database)
            loaded()
        log.info("ready", models=list(self))

    def offer(self, database: Database) -> None:
        """Say what this worker has, and what it has not and why.

        Raises:
            DatabaseUnavailable: nobody heard it.
        """
        with self._lock, database.transaction() as connection:
            catalog.offer(connection, self._config.worker, self._versions, self._failed, self._loading)

    def _add(self, source: ModelSource) -> None:
        began = time.monotonic()
        model = load(source.source, source.quantization, self._config.device, self._config.hf_token)
        engine = Engine(model.model, model.tokenizer, self._config.slots, self._config.rows_per_step)
        engine.warm_up()
        tokenizer = ArtifactStore(self._config.artifacts).put(model.tokenizer_json)
        self[source.name] = Lane(source.name, engine, model.tokenizer, model.digest, self._busy)
        self._decide(source.name, _version(source.name, model, tokenizer))
        seconds = round(time.monotonic() - began, 2)
        log.info("model loaded", model=source.name, quantization=model.quantization, seconds=seconds)

    def _decide(self, name: str, version: ModelVersion | None = None, reason: str = "") -> None:
        with self._lock:
            self._loading.discard(name)
            if version is not None:
                self._versions.append(version)
            else:
                self._failed[name] = reason

    def _offer_until_heard(self, database: Database) -> None:
        while True:
            try:
                return self.offer(database)
            except DatabaseUnavailable as error:
                log.warning("waiting for the database", error=str(error))
                time.sleep(_RETRY_SECONDS)


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
