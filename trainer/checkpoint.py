"""The only place that makes, proves and removes checkpoints: a folder counts once its manifest does.

Torch-free, since the parent reads it too.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from trainer.spec import ASIDE, CHECKPOINT

MANIFEST = "manifest.json"  # written last: {"step": n, "files": {path: {"sha256": ..., "bytes": ...}}}


def folder_of(job: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a job's folder."""
    return job / f"{CHECKPOINT}{step}"


def steps(job: Path) -> list[int]:
    """The steps of all checkpoint folders, whole or not, newest first."""
    names = (path.name.removeprefix(CHECKPOINT) for path in job.glob(f"{CHECKPOINT}*") if path.is_dir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def verified(job: Path) -> list[int]:
    """The steps whose checkpoints are what their manifests say, newest first."""
    return [step for step in steps(job) if is_whole(folder_of(job, step))]


def is_whole(folder: Path) -> bool:
    """Whether every file of a checkpoint is there with the bytes that its manifest names, and no other."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        named = folder.name == f"{CHECKPOINT}{manifest['step']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    present = {_name(folder, path): path for path in _files(folder)}
    if not named or present.keys() != files.keys():
        return False
    if any(present[name].stat().st_size != size for name, (size, _) in files.items()):
        return False  # before anything is read
    return all(_sha256(present[name]) == digest for name, (_, digest) in files.items())


def seal(aside: Path, job: Path, step: int) -> Path:
    """Make what lies in `aside` the checkpoint of a step: synced, manifest last, renamed into place.

    Raises OSError; then there is no such checkpoint.
    """
    files = {}
    for path in _files(aside):
        files[_name(aside, path)] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
        _sync(path)
    for path in aside.rglob("*"):
        if path.is_dir():
            _sync(path)
    manifest = aside / MANIFEST
    manifest.write_text(json.dumps({"step": step, "files": files}, indent=1))
    _sync(manifest)
    _sync(aside)
    final = folder_of(job, step)
    if final.exists():  # one that did not verify when this attempt began
        shutil.rmtree(final)
    aside.rename(final)
    _sync(job)
    return final


def remove(job: Path, step: int) -> None:
    """Remove a checkpoint; cut short, what is left of it does not verify."""
    folder = folder_of(job, step)
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def surplus(job: Path, keep: int, best: int | None) -> list[int]:
    """The steps to forget when the newest `keep` stay, and the best beside them."""
    return [step for step in steps(job)[keep:] if step != best]


def sweep(job: Path) -> None:
    """Remove what attempts that were cut short had begun to write."""
    for path in job.glob(f"{ASIDE}*"):
        shutil.rmtree(path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
