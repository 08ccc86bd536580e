"""The rows of files, who needs them, and when their bytes go."""

import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from jobs import catalog, files, published, submission, sweeper
from jobs.artifacts import ArtifactStore
from jobs.attempts import NewJob, Tier
from jobs.database import Database
from jobs.files import FileRecord, NewFile
from jobs.lines import Flaw
from jobs.published import Published
from jobs.settings import Settings
from jobs.tables import batches, checkpoint_files, checkpoints, loose_artifacts
from jobs.tables import files as rows
from tests.conftest import ROOT, wait_for
from tests.jobs import samples
from tests.jobs.test_sweeper import MONTH, Bells

HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path.as_uri())


def add(
    database: Database, store: ArtifactStore, owner: int, data: bytes = b"data", **changes: Any
) -> FileRecord:
    """A file, as an upload makes it."""
    with store.writer() as writer:
        writer.write(data)
        artifact = files.keep(database, writer)
    known = {"filename": "a.txt", "purpose": "user_data", "bytes": writer.size, "artifact": artifact}
    with database.transaction() as connection:
        return files.create(connection, NewFile(owner_id=owner, **(known | changes)))


def age(database: Database, **columns: Any) -> None:
    """Let time pass over every file and every mark."""
    with database.transaction() as connection:
        for table, name in ((rows, "expires_at"), (loose_artifacts, "since")):
            if name in columns:
                connection.execute(update(table).values({name: func.now() - columns[name]}))


def there(store: ArtifactStore, artifact: str) -> bool:
    try:
        store.open(artifact).close()
    except FileNotFoundError:
        return False
    return True


def forget(database: Database, record: FileRecord) -> None:
    with database.transaction() as connection:
        assert files.lock(connection, record.owner_id, record.id)
        files.remove(connection, record.id)


def batch_of(database: Database, record: FileRecord, status: str) -> None:
    known = {
        "owner_id": record.owner_id,
        "endpoint": "/v1/completions",
        "completion_window": "24h",
        "metadata": {},
    }
    with database.transaction() as connection:
        connection.execute(
            insert(batches).values(
                id=f"batch_{status}", input_file_id=record.id, status=status, expires_at=func.now(), **known
            )
        )


def finetune_on(database: Database, record: FileRecord, field: str) -> None:
    given = {"training_file": "file-other"} | {field: record.id}
    with database.transaction() as connection:
        job = NewJob("ftjob-1", record.owner_id, files.FINETUNE, "train", "starter", Tier.STANDARD, {}, given)
        submission.submit(connection, job)


def test_a_file_of_a_batch_lives_for_30_days_and_others_until_they_are_deleted(
    database: Database, store: ArtifactStore, owner: int
) -> None:
    made = {purpose: add(database, store, owner, purpose=purpose) for purpose in ("batch", "user_data")}
    told = add(database, store, owner, purpose="batch", expires_after=HOUR)
    assert made["user_data"].expires_at is None
    assert made["batch"].expires_at == made["batch"].created_at + timedelta(days=30)
    assert told.expires_at == told.created_at + HOUR


def test_only_its_owner_finds_a_file(database: Database, store: ArtifactStore, owner: int) -> None:
    record = add(database, store, owner)
    with database.transaction() as connection:
        assert files.find(connection, owner, record.id) == record
        assert files.find(connection, owner, record.id, hold=True) == record
        assert files.find(connection, owner + 1, record.id) is None
        assert not files.lock(connection, owner + 1, record.id)
        assert files.page(connection, owner + 1, None, None, 10, True) == ([], False)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling"])
def test_an_open_batch_needs_its_file(
    database: Database, store: ArtifactStore, owner: int, status: str
) -> None:
    record = add(database, store, owner)
    batch_of(database, record, "completed")
    with database.transaction() as connection:
        assert files.in_use(connection, record.id) is None
    batch_of(database, record, status)
    with database.transaction() as connection:
        assert files.in_use(connection, record.id) == f"batch 'batch_{status}'"


@pytest.mark.parametrize("field", ["training_file", "validation_file"])
def test_a_fine_tune_needs_its_files_until_it_has_ended(
    database: Database, store: ArtifactStore, owner: int, field: str
) -> None:
    record = add(database, store, owner, expires_after=HOUR)
    finetune_on(database, record, field)
    age(database, expires_at=HOUR)
    with database.transaction() as connection:
        assert files.in_use(connection, record.id) == "fine-tuning job 'ftjob-1'"
        assert not files.is_prunable(connection)
    assert files.prune(database, store) == 0
    samples.alter(database, "ftjob-1", state="failed", finished_at=func.now())
    with database.transaction() as connection:
        assert files.in_use(connection, record.id) is None
    assert files.prune(database, store) == 1


def test_expired_files_go_unless_a_batch_needs_them(
    database: Database, store: ArtifactStore, owner: int
) -> None:
    kept = add(database, store, owner)
    needed, _ = (add(database, store, owner, expires_after=HOUR) for _ in range(2))
    batch_of(database, needed, "in_progress")
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert "clerk.prune" not in bells.rung
    with database.transaction() as connection:
        connection.execute(update(rows).where(rows.c.id != kept.id).values(expires_at=func.now() - HOUR))
    sweeper.sweep(database, bells, MONTH)
    assert "clerk.prune" in bells.rung
    assert files.prune(database, store) == 1
    with database.transaction() as connection:
        assert set(connection.execute(select(rows.c.id)).scalars()) == {kept.id, needed.id}


def test_the_files_of_models_and_checkpoints_stay_until_their_rows_are_gone(
    database: Database, store: ArtifactStore, owner: int, tmp_path: Path
) -> None:
    (path := tmp_path / "weights").write_bytes(b"numbers")
    weights = files.keep_file(database, store, path)
    (path := tmp_path / "optimizer").write_bytes(b"state")
    state = files.keep_file(database, store, path)
    new = Published(samples.version("ft:a"), owner, "ftjob-1", {}, None, {"model.safetensors": weights})
    with database.transaction() as connection:
        published.publish(connection, new)
        submission.submit(connection, samples.new(owner, "ftjob-1"))
        made = {"id": "c", "job_id": "ftjob-1", "step": 1, "model": "ft:a", "metrics": {}}
        connection.execute(insert(checkpoints).values(**made))
        held = {"checkpoint_id": "c", "path": "optimizer.pt", "artifact": state}
        connection.execute(insert(checkpoint_files).values(**held))
    age(database, since=2 * HOUR)
    files.prune(database, store)
    assert there(store, weights)
    assert there(store, state)
    with database.transaction() as connection:
        files.loosen(connection, [state, *published.remove(connection, "ft:a")])
        connection.execute(delete(checkpoints))
    age(database, since=2 * HOUR)
    files.prune(database, store)
    assert not there(store, weights)
    assert not there(store, state)


def test_two_files_of_equal_bytes_share_them_until_the_second_has_gone(
    database: Database, store: ArtifactStore, owner: int
) -> None:
    one, two = add(database, store, owner), add(database, store, owner)
    assert one.artifact == two.artifact
    for record, left in ((one, True), (two, False)):
        forget(database, record)
        files.prune(database, store)
        assert there(store, one.artifact), "somebody may put them anew just now"
        age(database, since=2 * HOUR)
        files.prune(database, store)
        assert there(store, one.artifact) == left
    with database.transaction() as connection:
        assert not files.is_prunable(connection)


def test_bytes_that_never_got_a_row_go_and_a_tokenizer_stays(
    database: Database, store: ArtifactStore, owner: int
) -> None:
    with store.writer() as writer:
        writer.write(b"never")
        files.keep(database, writer)
    offered = samples.version(tokenizer=add(database, store, owner, b"{}").artifact)
    with database.transaction() as connection:
        catalog.offer(connection, "w", [offered], {})
        connection.execute(rows.delete())
    age(database, since=2 * HOUR)
    files.prune(database, store)
    assert (there(store, writer.name), there(store, offered.tokenizer)) == (False, True)


def test_an_upload_of_bytes_that_are_being_removed_does_not_lose_them(
    database: Database, store: ArtifactStore, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(database, old := add(database, store, owner))
    age(database, since=2 * HOUR)
    removing, go_on = threading.Event(), threading.Event()
    remove = store.remove

    def slowly(name: str) -> None:
        removing.set()
        assert go_on.wait(10)
        remove(name)

    monkeypatch.setattr(store, "remove", slowly)
    made: list[FileRecord] = []
    pruner = threading.Thread(target=files.prune, args=(database, store))
    uploader = threading.Thread(target=lambda: made.append(add(database, store, owner)))
    pruner.start()
    assert removing.wait(10)
    uploader.start()  # its bytes are still there, and in a moment they are not
    wait_for(lambda: waits_for_a_lock(database))
    go_on.set()
    pruner.join()
    uploader.join()
    assert made[0].artifact == old.artifact
    assert there(store, old.artifact)


def waits_for_a_lock(database: Database) -> bool:
    with database.transaction() as connection:
        return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())


def test_a_store_that_is_out_of_reach_is_asked_again_later(
    database: Database, store: ArtifactStore, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(database, record := add(database, store, owner))
    age(database, since=2 * HOUR)

    def fail(_path: str) -> None:
        raise OSError("out of reach")

    with monkeypatch.context() as broken:
        broken.setattr(store._files, "rm_file", fail)
        files.prune(database, store)
    files.prune(database, store)
    assert not there(store, record.artifact)


def test_a_file_that_is_held_cannot_be_deleted_meanwhile(
    database: Database, store: ArtifactStore, owner: int
) -> None:
    record = add(database, store, owner)
    done = threading.Event()

    def delete() -> None:
        with database.transaction() as connection:
            assert files.lock(connection, owner, record.id)
            done.set()

    deleting = threading.Thread(target=delete)
    with database.transaction() as connection:
        assert files.find(connection, owner, record.id, hold=True)
        deleting.start()
        wait_for(lambda: waits_for_a_lock(database))
        assert not done.is_set()
    deleting.join()
    assert done.is_set()


def test_each_file_is_validated_by_one_and_the_oldest_first(
    database: Database, store: ArtifactStore, owner: int
) -> None:
    one, two = (add(database, store, owner, purpose="batch") for _ in range(2))
    with files.unvalidated(database) as first, files.unvalidated(database) as second:
        assert first is not None
        assert second is not None
        assert (first[1].id, second[1].id) == (one.id, two.id)
        with files.unvalidated(database) as third:
            assert third is None
        files.settle(first[0], one.id, 7, None, [])
        files.settle(second[0], two.id, 2, "Line 1: No.", [Flaw("bad", "No.", 1, "url")])
    with database.transaction() as connection:
        assert not files.is_unvalidated(connection)
        good, bad = (files.find(connection, owner, record.id) for record in (one, two))
    assert good is not None
    assert bad is not None
    assert (good.status, good.lines, good.errors, good.status_details) == ("processed", 7, None, None)
    assert (bad.status, bad.lines, bad.status_details) == ("error", 2, "Line 1: No.")
    assert bad.errors == [{"code": "bad", "message": "No.", "line": 1, "param": "url"}]


def test_a_process_that_is_killed_over_a_file_leaves_it_to_the_next(
    database: Database, store: ArtifactStore, owner: int, settings: Settings
) -> None:
    record = add(database, store, owner, purpose="batch")
    taking = (
        "import sys; from jobs import files; from jobs.database import Database\n"
        "with files.unvalidated(Database(sys.argv[1])) as taken: print(taken[1].id, flush=True); input()"
    )
    command = [sys.executable, "-c", taking, settings.database]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().decode().strip() == record.id
        assert not waiting(database)
        os.kill(other.pid, signal.SIGKILL)
    assert wait_for(lambda: waiting(database)) == [record.id]


def waiting(database: Database) -> list[str]:
    with files.unvalidated(database) as taken:
        return [] if taken is None else [taken[1].id]


def test_the_bell_rings_again_for_files_that_wait(
    database: Database, store: ArtifactStore, owner: int
) -> None:
    add(database, store, owner)
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert "clerk.validate" not in bells.rung
    add(database, store, owner, purpose="fine-tune")
    sweeper.sweep(database, bells, MONTH)
    assert "clerk.validate" in bells.rung
