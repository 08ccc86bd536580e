"""Immutable bytes, named by their hash, in a folder or an S3 bucket."""

import hashlib
import re
import secrets
from pathlib import PurePosixPath

import fsspec

_NAME = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """The only place that reads and writes artifacts; `url` is anything fsspec opens: file://, s3://."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)

    def put(self, data: bytes) -> str:
        """Keep `data` and return its name. Putting the same bytes twice is the same as once."""
        name = hashlib.sha256(data).hexdigest()
        path = self._path(name)
        if not self._files.exists(path):
            self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            aside = f"{path}.{secrets.token_hex(4)}"  # a reader never sees half a file
            self._files.pipe_file(aside, data)
            self._files.mv(aside, path)
        return name

    def get(self, name: str) -> bytes:
        """The bytes of that name.

        Raises:
            FileNotFoundError: there are none.
        """
        data: bytes = self._files.cat_file(self._path(name))
        return data

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise FileNotFoundError(f"{name!r} is not the name of an artifact")
        return f"{self._root}/{name[:2]}/{name}"
