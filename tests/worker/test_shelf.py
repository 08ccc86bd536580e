"""Folders of published models on a host's disk: whole or absent."""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore
from jobs.errors import ModelUnavailable
from jobs.published import Published
from tests.jobs.samples import version
from worker.shelf import NotFetched, Shelf

Put = Callable[..., Published]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path / 'store'}")


@pytest.fixture
def shelf(tmp_path: Path, store: ArtifactStore) -> Shelf:
    return Shelf(tmp_path / "models", store, "w")


@pytest.fixture
def put(store: ArtifactStore) -> Put:
    def put(**files: bytes) -> Published:
        named = {name.replace("_", "/"): store.put(data) for name, data in files.items()}
        digest = hashlib.sha256(repr(named).encode()).hexdigest()
        return Published(version(digest=digest), 1, "ftjob", {}, None, named)

    return put


def test_a_folder_has_every_file_at_its_place(shelf: Shelf, put: Put, tmp_path: Path) -> None:
    model = put(config=b"{}", below_weights=b"numbers")
    assert not shelf.has(model)
    folder = shelf.fetch(model)
    assert (folder / "config").read_bytes() == b"{}"
    assert (folder / "below" / "weights").read_bytes() == b"numbers"
    assert shelf.fetch(model) == folder == tmp_path / "models" / model.version.digest
    assert shelf.has(model)


def test_a_fetch_that_failed_is_tried_once_more(
    shelf: Shelf, put: Put, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fetch, failures = put(a=b"a", b=b"b"), store.fetch, [1]

    def fail(name: str, path: Path) -> None:
        if path.name == "b" and failures:
            failures.pop()
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        fetch(name, path)

    monkeypatch.setattr(store, "fetch", fail)
    assert (shelf.fetch(model) / "b").read_bytes() == b"b"
    shelf.discard([model.version.digest])
    failures += [1, 1]
    with pytest.raises(NotFetched, match="could not be fetched just now: No route to host"):
        shelf.fetch(model)
    assert list((tmp_path / "models").iterdir()) == [], "nothing half-written is left"


def test_a_file_that_is_gone_or_lies_elsewhere_is_refused(
    shelf: Shelf, put: Put, store: ArtifactStore, tmp_path: Path
) -> None:
    model = put(a=b"a")
    store.remove(model.files["a"])
    with pytest.raises(ModelUnavailable, match="its file a is not in the artifact store any more"):
        shelf.fetch(model)
    with pytest.raises(ModelUnavailable, match="names no files of it"):
        shelf.fetch(put())
    for path in ("../out", "/etc/out", "a/../../out"):
        evil = Published(version(digest="e" * 64), 1, "ftjob", {}, None, {path: store.put(b"out")})
        with pytest.raises(ModelUnavailable, match="outside of its folder"):
            shelf.fetch(evil)
    assert list(tmp_path.rglob("out")) == []


def test_what_nobody_needs_goes_and_what_others_write_stays(shelf: Shelf, put: Put, tmp_path: Path) -> None:
    kept, gone = put(a=b"a"), put(b=b"b")
    shelf.fetch(kept)
    shelf.fetch(gone)
    (tmp_path / "models" / f"{shelf._aside}killed").mkdir()
    (others := tmp_path / "models" / ".another worker-1234").mkdir()
    shelf.tidy({kept.version.digest})
    left = {path.name for path in (tmp_path / "models").iterdir()}
    assert left == {kept.version.digest, others.name}


def test_of_two_workers_that_fetch_the_same_the_second_takes_what_is_there(
    shelf: Shelf, put: Put, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fetch = put(a=b"a"), store.fetch
    other = Shelf(tmp_path / "models", ArtifactStore(f"file://{tmp_path / 'store'}"), "v")

    def late(name: str, path: Path) -> None:
        other.fetch(model)
        fetch(name, path)

    monkeypatch.setattr(store, "fetch", late)
    assert (shelf.fetch(model) / "a").read_bytes() == b"a"
    assert len(list((tmp_path / "models").iterdir())) == 1
