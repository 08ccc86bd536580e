"""Immutable bytes, named by their hash, in a folder or an S3 bucket."""

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from io import UnsupportedOperation
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jobs.errors import ArtifactDamaged, StorageFailed

_NAME = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
_ASIDE = "aside"  # folder of what is being written; no artifact's folder is named so


class Writer:
    """An artifact on its way: nobody sees it before `keep`."""

    def __init__(self, store: "ArtifactStore", file: BinaryIO, aside: str) -> None:
        self._store, self._file, self._aside = store, file, aside
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append `data`.

        Raises:
            StorageFailed: there is no room, or the store is out of reach.
        """
        with _storage():
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    @property
    def name(self) -> str:
        """The name of what was written so far."""
        return self._hash.hexdigest()

    def keep(self) -> str:
        """Make it an artifact, on the disk for good, and return its name.

        Raises:
            StorageFailed: there is no room, or the store is out of reach.
        """
        with _storage():
            _to_disk(self._file)
            self._file.close()
            self._store._place(self._aside, self.name)
        return self.name


class ArtifactStore:
    """The only place that reads and writes artifacts; `url` is anything fsspec opens: file://, s3://."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Write an artifact piece by piece; without `keep` nothing is left of it at the end of the block.

        Raises:
            StorageFailed: the store is out of reach.
        """
        folder = f"{self._root}/{_ASIDE}"
        aside = f"{folder}/{secrets.token_hex(8)}"
        with _storage():
            self._files.makedirs(folder, exist_ok=True)
            file = self._files.open(aside, "wb")
        try:
            yield Writer(self, file, aside)
        finally:
            with suppress(OSError):
                file.close()
            with suppress(OSError):  # kept: it is there no more
                self._files.rm_file(aside)

    def put_stream(self, blocks: Iterable[bytes]) -> str:
        """Keep what the blocks are together and return its name.

        Raises:
            StorageFailed: there is no room, or the store is out of reach.
        """
        with self.writer() as writer:
            for block in blocks:
                writer.write(block)
            return writer.keep()

    def put(self, data: bytes) -> str:
        """Keep `data` and return its name. Putting the same bytes twice is the same as once.

        Raises:
            StorageFailed: there is no room, or the store is out of reach.
        """
        return self.put_stream([data])

    def put_file(self, path: Path, announce: Callable[[str], None] | None = None) -> str:
        """Keep a file's bytes and return their name; nobody may write to that file any more.

        A folder on the same disk links it: gigabytes are read once, for their name, and not copied.
        `announce` hears the name before the bytes are there (see `files.keep_file`).

        Raises:
            StorageFailed: there is no room, or the store is out of reach.
            OSError: the file cannot be read.
        """
        with path.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            if announce is not None:
                announce(name)
            if self._is_local and self._link(path, name):
                return name
            file.seek(0)
            return self.put_stream(iter(partial(file.read, _BLOCK), b""))

    def fetch(self, name: str, path: Path) -> None:
        """Make a new file of the bytes of that name, to be read alone: it may be a link to them.

        Raises:
            FileNotFoundError: there are none.
            ArtifactDamaged: they are not what their name says.
            OSError: the file cannot be written, or the store is out of reach.
        """
        if not (self._is_local and _linked(self._path(name), path)):
            with self.open(name) as source, path.open("xb") as copy:
                shutil.copyfileobj(source, copy, _BLOCK)
                _to_disk(copy)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != name:
                raise ArtifactDamaged(
                    f"The artifact {name} is damaged: its bytes are not those that were kept."
                )

    def get(self, name: str) -> bytes:
        """The bytes of that name.

        Raises:
            FileNotFoundError: there are none.
        """
        data: bytes = self._files.cat_file(self._path(name))
        return data

    def open(self, name: str) -> BinaryIO:
        """The bytes of that name as a stream that can seek; close it.

        Raises:
            FileNotFoundError: there are none.
        """
        return cast(BinaryIO, self._files.open(self._path(name), "rb"))

    def remove(self, name: str) -> None:
        """Forget the bytes of that name, if there are any; see to it that nobody needs them.

        Raises:
            StorageFailed: the store is out of reach.
        """
        with _storage(), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def older(self, age: timedelta) -> Iterator[list[str]]:
        """The names of the artifacts that came so long ago, a folder of them at a time.

        Raises:
            StorageFailed: the store is out of reach.
        """
        with _storage():
            folders = self._files.ls(self._root, detail=False) if self._files.exists(self._root) else []
        for folder in folders:
            with _storage(), suppress(FileNotFoundError, NotADirectoryError):
                found = self._files.ls(folder, detail=True)
                names = {PurePosixPath(one["name"]).name: one for one in found if one["type"] == "file"}
                yield [
                    name
                    for name, one in names.items()
                    if _NAME.fullmatch(name) and _age_of(one) > age.total_seconds()
                ]

    def remove_abandoned(self, age: timedelta) -> int:
        """Remove what writers left that were killed so long ago; return how many.

        Raises:
            StorageFailed: the store is out of reach.
        """
        folder, gone = f"{self._root}/{_ASIDE}", 0
        with _storage():
            begun = self._files.find(folder) if self._files.exists(folder) else []
            for aside in begun:
                with suppress(FileNotFoundError):
                    if _age(self._files.modified(aside)) > age.total_seconds():
                        self._files.rm_file(aside)
                        gone += 1
        return gone

    @property
    def _is_local(self) -> bool:
        return isinstance(self._files, LocalFileSystem)

    def _link(self, path: Path, name: str) -> bool:
        """Make a file that is on the disk an artifact; returns whether its disk and the store's are one."""
        with _storage():
            to = Path(self._path(name))
            to.parent.mkdir(parents=True, exist_ok=True)
            if not to.exists() and not _linked(path, to):
                return False
            _names_to_disk(PurePosixPath(to.parent))
        return True

    def _place(self, aside: str, name: str) -> None:
        path = self._path(name)
        if not self._files.exists(path):
            self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            self._files.mv(aside, path)
            if self._is_local:
                _names_to_disk(PurePosixPath(path).parent)

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise FileNotFoundError(f"{name!r} is not the name of an artifact")
        return f"{self._root}/{name[:2]}/{name}"


def leads_out(path: str) -> bool:
    """Whether a file of that path would lie outside of the folder that is made of artifacts."""
    return ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute()


def _linked(existing: Path | str, new: Path) -> bool:
    """Whether a second name could be given: the file system, or a limit of it, may refuse it."""
    try:
        os.link(existing, new)
    except FileExistsError:
        return new.samefile(existing)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _to_disk(file: BinaryIO) -> None:
    """A crash of the machine must not leave a name without its bytes; only a real file can be forced."""
    file.flush()
    with suppress(AttributeError, UnsupportedOperation):
        os.fsync(file.fileno())


def _names_to_disk(folder: PurePosixPath) -> None:
    """As for bytes: a row that survives a crash of the machine must find its file under its name."""
    for each in (folder, folder.parent):  # the folder itself may be new
        opened = os.open(each, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _age_of(listed: Mapping[str, Any]) -> float:
    """Seconds since what a listing names was written: a folder and S3 say so in their own ways."""
    if "mtime" in listed:
        return time.time() - float(listed["mtime"])
    return _age(listed["LastModified"])


def _age(moment: datetime) -> float:
    return time.time() - moment.timestamp()


@contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise StorageFailed(f"The artifact store failed: {reason}.") from error
