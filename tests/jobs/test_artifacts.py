"""Bytes under the name of their hash."""

import errno
import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileOpener

from jobs.artifacts import ArtifactStore
from jobs.errors import StorageFailed
from jobs.settings import Settings

DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(Settings(var_dir=tmp_path / "the folder").artifacts)


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("data", [b"", b"text", bytes(range(256)) * 5000])
def test_what_was_put_can_be_got_by_its_hash(store: ArtifactStore, data: bytes) -> None:
    name = store.put(data)
    assert name == hashlib.sha256(data).hexdigest()
    assert store.get(name) == data


def test_putting_the_same_twice_is_the_same_as_once(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.put(b"same") == store.put(b"same")
    assert len(files_in(tmp_path)) == 1


def test_many_may_put_the_same_at_once_and_no_half_file_is_left(store: ArtifactStore, tmp_path: Path) -> None:
    data = b"x" * 1_000_000
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: store.put(data), range(16)))
    [name] = names
    assert store.get(name) == data
    assert files_in(tmp_path) == [name]


def test_a_write_that_dies_half_way_leaves_nothing(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, method in ((LocalFileOpener, "write"), (LocalFileOpener, "flush"), (store._files, "mv")):
        with monkeypatch.context() as broken:
            broken.setattr(owner, method, die)
            with pytest.raises(StorageFailed, match="No space left on device"):
                store.put(b"data")
        assert files_in(tmp_path) == [], method
        with pytest.raises(FileNotFoundError):
            store.get(hashlib.sha256(b"data").hexdigest())
    assert store.get(store.put(b"data")) == b"data"


def test_what_is_written_piece_by_piece_is_there_once_it_is_kept(
    store: ArtifactStore, tmp_path: Path
) -> None:
    pieces = [b"a" * 100_000, b"", b"b"]
    with store.writer() as writer:
        for piece in pieces:
            writer.write(piece)
        with pytest.raises(FileNotFoundError):
            store.get(writer.name)
        name = writer.keep()
    assert (writer.size, name) == (100_001, store.put_stream(pieces))
    assert files_in(tmp_path) == [name]
    with store.open(name) as stream:
        stream.seek(99_999)
        assert stream.read() == b"ab"


def test_what_is_not_kept_is_gone_at_the_end(store: ArtifactStore, tmp_path: Path) -> None:
    with store.writer() as writer:
        writer.write(b"data")
    with pytest.raises(ZeroDivisionError), store.writer() as writer:
        writer.write(b"data" * (1 // 0))
    assert files_in(tmp_path) == []


def test_what_a_killed_writer_left_goes_after_a_day(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.remove_abandoned(DAY) == 0
    kept = store.put(b"kept")
    with store.writer() as writer:
        writer.write(b"data")
        [left] = (tmp_path / "the folder" / "artifacts" / "aside").iterdir()
        shutil.copy(left, old := left.with_name("old"))
        os.utime(old, (0, time.time() - 25 * 3600))
        assert store.remove_abandoned(DAY) == 1
        assert writer.keep() == hashlib.sha256(b"data").hexdigest(), "this one still wrote"
    assert store.get(kept) == b"kept"


def test_what_was_removed_is_gone_and_may_be_removed_again(store: ArtifactStore) -> None:
    name = store.put(b"data")
    store.remove(name)
    store.remove(name)
    with pytest.raises(FileNotFoundError):
        store.get(name)
    with pytest.raises(FileNotFoundError):
        store.open(name)


@pytest.fixture(params=["folder", "another disk", "bucket"])
def any_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ArtifactStore:
    """A folder beside the files, one to which nothing can be linked, and one that is no folder."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if request.param == "another disk":
        monkeypatch.setattr(os, "link", refuse)
    return ArtifactStore("memory://bucket" if request.param == "bucket" else f"file://{tmp_path / 'store'}")


@pytest.mark.parametrize("data", [b"", bytes(range(256)) * 10_000])
def test_a_file_goes_in_and_comes_out_of_any_store(
    any_store: ArtifactStore, tmp_path: Path, data: bytes
) -> None:
    (path := tmp_path / "weights").write_bytes(data)
    announced: list[str] = []
    name = any_store.put_file(path, announced.append)
    assert announced == [name] == [any_store.put(data)]
    assert any_store.put_file(path) == name
    any_store.fetch(name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    any_store.remove(name)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes() == data


def test_a_file_on_the_disk_of_the_store_takes_no_room_there(store: ArtifactStore, tmp_path: Path) -> None:
    (path := tmp_path / "weights").write_bytes(b"numbers")
    store.fetch(store.put_file(path), tmp_path / "copy")
    assert path.samefile(tmp_path / "copy")
    assert path.stat().st_nlink == 3


def test_bytes_that_are_not_what_their_name_says_are_refused(
    any_store: ArtifactStore, tmp_path: Path
) -> None:
    name = any_store.put(b"whole")
    any_store._files.pipe_file(any_store._path(name), b"who")
    with pytest.raises(StorageFailed, match=f"The artifact {name} is damaged"):
        any_store.fetch(name, tmp_path / "copy")
    with pytest.raises(FileNotFoundError):
        any_store.fetch("0" * 64, tmp_path / "another")
    with pytest.raises(FileNotFoundError):
        any_store.put_file(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name", ["", "0" * 63, "0" * 64, "A" * 64, "../" * 22, "/etc/passwd", "0" * 64 + "\n"]
)
def test_a_name_that_is_no_artifact_is_not_found(store: ArtifactStore, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        store.get(name)


def test_a_store_need_not_be_a_folder() -> None:
    store = ArtifactStore("memory://bucket/penstock")
    assert store.get(store.put(b"data")) == b"data"
    with store.writer() as writer:
        writer.write(b"more")
        writer.keep()
    with store.open(writer.name) as stream:
        assert stream.read() == b"more"
    store.remove(writer.name)
    assert store.remove_abandoned(DAY) == 0
