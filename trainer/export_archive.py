"""Packs a folder into one file as it is written somewhere: the same folder is always the same bytes."""

import zipfile
from collections.abc import Callable
from pathlib import Path

_BLOCK = 1 << 20
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the first that a zip can name: when it was packed is no matter
_READABLE = 0o644 << 16
_BIG = 1 << 31  # bytes; from there on a zip needs its longer form


class _Stream:
    """What `zipfile` needs of a file that cannot seek."""

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write

    def write(self, data: bytes, /) -> int:
        """Pass it on."""
        return self._write(data)

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """It is somebody else's."""


def pack(folder: Path, write: Callable[[bytes], int]) -> None:
    """Write the folder as a zip through `write`, block by block; weights are stored as they are.

    Raises:
        OSError: a file cannot be read.
        Whatever `write` raises.
    """
    with zipfile.ZipFile(_Stream(write), "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _MOMENT)
            entry.external_attr = _READABLE
            entry.file_size = path.stat().st_size
            is_plain = path.suffix == ".safetensors"  # numbers do not become smaller
            entry.compress_type = zipfile.ZIP_STORED if is_plain else zipfile.ZIP_DEFLATED
            with (
                path.open("rb") as source,
                archive.open(entry, "w", force_zip64=entry.file_size >= _BIG) as packed,
            ):
                while block := source.read(_BLOCK):
                    packed.write(block)
