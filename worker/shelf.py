"""The only place that puts published models on this host's disk: a folder each, whole or absent."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

import structlog

from jobs.artifacts import ArtifactStore, leads_out
from jobs.errors import ArtifactDamaged, ModelUnavailable
from jobs.published import Published

log = structlog.get_logger(__name__)

_ASIDE = "."  # how the name of a folder begins that is being written; no digest does


class NotFetched(ModelUnavailable):
    """A model's files did not come; they may the next time."""


class Shelf:
    """Folders named by digest. Several workers of a host may share it."""

    def __init__(self, folder: Path, store: ArtifactStore, worker: str) -> None:
        self._folder = folder
        self._store = store
        self._aside = f"{_ASIDE}{hashlib.sha256(worker.encode()).hexdigest()[:16]}-"

    def has(self, model: Published) -> bool:
        """Whether its files are here already."""
        return self.place(model).is_dir()

    def place(self, model: Published) -> Path:
        """Where its folder is, or would be."""
        return self._place(model.version.digest)

    def fetch(self, model: Published) -> Path:
        """Its folder; each of its files was what its name says when it came.

        Raises:
            ModelUnavailable: the store does not have them any more, or not whole, also at the second try.
            NotFetched: the store is out of reach, or this disk is full, also at the second try.
        """
        place = self.place(model)
        for is_last in (False, True):
            if place.is_dir():
                break
            try:
                self._bring(model, place)
            except ArtifactDamaged as error:
                log.warning("model could not be fetched", model=model.version.name, error=str(error))
                if is_last:
                    raise ModelUnavailable(f"its files cannot be had. {error}") from error
            except OSError as error:
                log.warning("model could not be fetched", model=model.version.name, error=str(error))
                if is_last:
                    reason = error.strerror or type(error).__name__
                    raise NotFetched(f"its files could not be fetched just now: {reason}.") from error
        return place

    def discard(self, digests: Collection[str]) -> None:
        """Remove these folders; who reads in one keeps what is open."""
        for digest in digests:
            shutil.rmtree(self._place(digest), ignore_errors=True)

    def tidy(self, kept: Collection[str]) -> None:
        """Remove every other folder, and what this worker left half-written when it was killed."""
        for place in self._folder.iterdir() if self._folder.is_dir() else ():
            aside = place.name.startswith(_ASIDE)
            if place.name.startswith(self._aside) if aside else place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def _place(self, digest: str) -> Path:
        return self._folder / digest

    def _bring(self, model: Published, place: Path) -> None:
        if not model.files:
            raise ModelUnavailable("the catalog names no files of it.")
        aside = self._folder / f"{self._aside}{secrets.token_hex(4)}"
        try:
            for path, artifact in model.files.items():
                if leads_out(path):
                    raise ModelUnavailable(f"its file {path!r} would lie outside of its folder.")
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._store.fetch(artifact, aside / path)
                except FileNotFoundError as error:
                    gone = f"its file {path} is not in the artifact store any more."
                    raise ModelUnavailable(gone) from error
            _names_to_disk(aside)
            try:
                aside.rename(place)
            except OSError:
                if not place.is_dir():  # another worker was faster
                    raise
            _names_to_disk(self._folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _names_to_disk(folder: Path) -> None:
    """After a crash of the machine a folder under its own name must hold its files."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
