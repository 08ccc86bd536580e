"""What goes into an export: the model's folder and, if it is an adapter, its base; its licence; its data."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP client's
    HFValidationError,
    HTTPError,
)

from jobs import files, published
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.exports import ExportInput
from jobs.settings import Settings
from trainer.bases import Bases
from trainer.export_order import DataFile, Order

_CARD = "README.md"
_ROLES = ("training", "validation")


class Sources:
    """The models that this host can export."""

    def __init__(self, config: Settings, database: Database, store: ArtifactStore) -> None:
        self._config, self._database, self._store = config, database, store

    def order(self, folder: Path, model: str, owner_id: int, work: ExportInput) -> Order:
        """What to do in a folder that is the export's own; what must be fetched is fetched into it.

        Raises:
            ModelUnavailable: the model cannot be had; the message says why.
            StorageFailed: the artifact store is out of reach.
        """
        fetched = folder / "models"
        fetched.mkdir()
        base = Bases(self._config, self._database, self._store, fetched).find(model, owner_id)
        with self._database.transaction() as connection:
            found = published.find(connection, model)
        is_from_here = found is not None and all(one.name != model for one in self._config.sources)
        lineage = dict(found.lineage) if found is not None and is_from_here else None
        below = None if lineage is None else lineage.get("base")
        return Order(
            folder=folder,
            name=model,
            base=base.folder,
            adapter=base.adapter,
            card=self._card(base.root, base.folder),
            base_model=None if below is None else self._known_as(base.root),
            lineage=lineage,
            data=() if lineage is None else self._data(lineage, owner_id),
            push_to_hub=work.push_to_hub,
            space=work.space,
            private=work.private,
        )

    def _card(self, root: str, folder: Path) -> Path | None:
        """The README of the model at the bottom, from its folder or the Hub; None where there is none."""
        if (folder / _CARD).is_file():
            return folder / _CARD
        source = self._source(root)
        if source is None:
            return None
        if _is_folder(source):
            card = Path(source).expanduser().resolve() / _CARD
            return card if card.is_file() else None
        with suppress(HTTPError, OSError, HFValidationError):  # then nobody here knows its licence
            return Path(hf_hub_download(source, _CARD, token=self._config.hf_token))
        return None

    def _known_as(self, name: str) -> str:
        """A model of MODELS by its id on the Hub, where it has one, else by its name."""
        source = self._source(name)
        return name if source is None or _is_folder(source) else source

    def _source(self, name: str) -> str | None:
        return next((one.source for one in self._config.sources if one.name == name), None)

    def _data(self, lineage: dict[str, Any], owner_id: int) -> tuple[DataFile, ...]:
        """The files that the model was trained on and judged by, as far as it is known."""
        found = []
        with self._database.transaction() as connection:
            for role in _ROLES:
                file_id, sha256 = lineage.get(f"{role}_file"), lineage.get(f"{role}_sha256")
                if sha256 is not None:
                    record = files.find(connection, owner_id, file_id) if file_id else None
                    filename = None if record is None else record.filename
                    found.append(DataFile(role=role, filename=filename, sha256=sha256))
        return tuple(found)


def _is_folder(source: str) -> bool:
    return Path(source).expanduser().is_dir()
