"""Bytes under the name of their hash."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "the artifacts").as_uri())


@pytest.mark.parametrize("data", [b"", b"text", bytes(range(256)) * 5000])
def test_what_was_put_can_be_got_by_its_hash(store: ArtifactStore, data: bytes) -> None:
    name = store.put(data)
    assert name == hashlib.sha256(data).hexdigest()
    assert store.get(name) == data


def test_putting_the_same_twice_is_the_same_as_once(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.put(b"same") == store.put(b"same")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_many_may_put_the_same_at_once_and_no_half_file_is_left(store: ArtifactStore, tmp_path: Path) -> None:
    data = b"x" * 1_000_000
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: store.put(data), range(16)))
    [name] = names
    assert store.get(name) == data
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_a_write_that_dies_half_way_leaves_nothing_under_the_name(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_path: str, _to: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(store._files, "mv", die)
    with pytest.raises(OSError, match="No space"):
        store.put(b"data")
    with pytest.raises(FileNotFoundError):
        store.get(hashlib.sha256(b"data").hexdigest())
    monkeypatch.undo()
    assert store.get(store.put(b"data")) == b"data"


@pytest.mark.parametrize(
    "name", ["", "0" * 63, "0" * 64, "A" * 64, "../" * 22, "/etc/passwd", "0" * 64 + "\n"]
)
def test_a_name_that_is_no_artifact_is_not_found(store: ArtifactStore, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        store.get(name)


def test_a_store_need_not_be_a_folder() -> None:
    store = ArtifactStore("memory://bucket/penstock")
    assert store.get(store.put(b"data")) == b"data"
