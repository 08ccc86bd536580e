"""Where a base model lies on this host: a folder of MODELS, a snapshot of the Hub, or one trained here."""

import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP client's
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)

from jobs import catalog, digests, published
from jobs.artifacts import ArtifactStore, leads_out
from jobs.database import Database
from jobs.errors import ModelUnavailable
from jobs.published import Published
from jobs.settings import ModelSource, Settings
from trainer import tokenizing

_ADAPTER = "adapter_config.json"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FETCHED = ["*.json", "*.safetensors", "merges.txt", "chat_template.jinja"]


@dataclass(frozen=True)
class Base:
    """A base model: its folder, an adapter to merge into it first, and what it descends from."""

    folder: Path
    adapter: Path | None
    root: str  # the name in MODELS at the bottom
    digest: str


class Bases:
    """The models that this trainer can begin with."""

    def __init__(self, config: Settings, database: Database, store: ArtifactStore, folder: Path) -> None:
        self._config, self._database, self._store = config, database, store
        self._folder = folder  # of what was fetched, a folder each, named by digest

    def find(self, name: str, owner_id: int) -> Base:
        """The model of that name, if the owner may use it; fetched if need be.

        Raises:
            ModelUnavailable: it cannot be had; the message says why.
        """
        source = next((one for one in self._config.sources if one.name == name), None)
        if source is not None:
            return self._of_settings(source, owner_id)
        with self._database.transaction() as connection:
            found = published.find(connection, name)
        if found is None or found.owner_id != owner_id:
            raise ModelUnavailable(
                f"The base model '{name}' is neither in this trainer's MODELS nor trained here."
            )
        return self._trained_here(found)

    def prune(self) -> None:
        """Remove what was fetched of models that are gone."""
        with self._database.transaction() as connection:
            there = {one.version.digest for one in published.list_all(connection)}
        for folder in self._folder.glob("*"):
            if folder.name not in there:
                shutil.rmtree(folder)

    def _of_settings(self, source: ModelSource, owner_id: int) -> Base:
        folder = _located(source.source, self._config.hf_token)
        digest = self._digest(source.name, folder)
        if not (folder / _ADAPTER).is_file():
            return Base(folder, None, source.name, digest)
        under = json.loads((folder / _ADAPTER).read_bytes()).get("base_model_name_or_path")
        for other in self._config.sources:
            if other is not source and under in (other.name, other.source):
                below = self._of_settings(other, owner_id)
                return Base(below.folder, folder, source.name, digest)
        raise ModelUnavailable(f"The adapter '{source.name}' is over '{under}', which is not in MODELS.")

    def _digest(self, name: str, folder: Path) -> str:
        """As the workers offer it, or would: they refuse an adapter over other weights than theirs."""
        with self._database.transaction() as connection:
            offer = catalog.listing(connection).get(name)
        if offer is not None and offer.version is not None:
            return offer.version.digest
        weights = sorted(folder.glob("*.safetensors"))
        if (folder / _ADAPTER).is_file():  # it is merged into its base: no worker asks for this one
            return digests.of_files(weights)
        held = {path.name: digests.sha256(path) for path in (folder / digests.CONFIG, *weights)}
        return digests.of_model(held, digests.tokenizer_json(tokenizing.read(folder)))

    def _trained_here(self, found: Published) -> Base:
        root = str(found.lineage.get("root", found.version.name))
        folder = self._fetched(found)
        if found.base is None:
            return Base(folder, None, root, found.version.digest)
        below = self.find(found.base, found.owner_id)
        return Base(below.folder, folder, root, found.version.digest)

    def _fetched(self, found: Published) -> Path:
        folder = self._folder / found.version.digest
        if folder.is_dir():
            return folder
        aside = self._folder / f".{found.version.digest}"
        shutil.rmtree(aside, ignore_errors=True)
        fetch_folder(self._store, dict(found.files), aside)
        aside.rename(folder)
        return folder


def fetch_folder(store: ArtifactStore, held: dict[str, str], folder: Path) -> None:
    """Make a folder of artifacts; each is checked against its name.

    Raises:
        ModelUnavailable: one is gone.
        StorageFailed: one is damaged, or the store is out of reach.
    """
    folder.mkdir(parents=True)
    for path, name in held.items():
        if leads_out(path):
            raise ModelUnavailable(f"Its file {path!r} would lie outside of its folder.")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            store.fetch(name, folder / path)
        except FileNotFoundError as error:
            raise ModelUnavailable(f"Its file {path} is gone from the artifact store.") from error


def _located(source: str, token: str | None) -> Path:
    folder = Path(source).expanduser().resolve()
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(source):
        raise ModelUnavailable(f"The base model's folder {source} is not on the trainer's host.")
    try:
        with suppress(OSError):  # what is there already needs no Hub
            return Path(snapshot_download(source, allow_patterns=_FETCHED, local_files_only=True))
        return Path(snapshot_download(source, allow_patterns=_FETCHED, token=token))
    except GatedRepoError as error:
        raise ModelUnavailable(f"The Hub gives '{source}' only to a token that was let in.") from error
    except RepositoryNotFoundError as error:
        raise ModelUnavailable(f"There is no folder {source}, and the Hub shows no such model.") from error
    except (OSError, HTTPError, HFValidationError) as error:
        raise ModelUnavailable(f"There is no folder {source}, and the Hub could not be reached.") from error
