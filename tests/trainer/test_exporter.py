"""Exports as jobs: claimed, written by a process of their own, kept as a file, cancelled, killed."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from jobs import files, lifecycle, published
from jobs.database import Database
from jobs.errors import StorageFailed
from jobs.settings import Settings
from jobs.tables import jobs, loose_artifacts
from tests.conftest import ROOT, wait_for
from tests.trainer.export_host import MINE, Host, working, write_models
from tests.trainer.small import LINEAGE
from trainer import export_process


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def host(settings: Settings, database: Database, owner: int, models: Path, tmp_path: Path) -> Iterator[Host]:
    with working(settings, database, owner, models, tmp_path) as made:
        yield made


def test_an_export_of_a_fine_tune_becomes_a_file_of_its_owner(
    host: Host, models: Path, tmp_path: Path
) -> None:
    host.publish(models / "adapter")
    job_id = host.submit()
    host.start()
    row = host.end_of(job_id)
    assert row.state == "succeeded", row.error
    folder = host.archive(row, tmp_path / "unpacked")
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "space"),
    }
    card = (folder / "README.md").read_text()
    assert "license: mit" in card
    assert "base_model: base" in card
    assert f"| name in Penstock | `{MINE}` |" in card
    assert wait_for(lambda: not host.leftovers())
    assert (row.output["hub"], row.output["space"]) == (None, None)


def test_a_model_that_everybody_has_can_be_exported_too(host: Host, tmp_path: Path) -> None:
    job_id = host.submit("base")
    host.start()
    row = host.end_of(job_id)
    assert row.state == "succeeded", row.error
    assert "license: mit" in (host.archive(row, tmp_path / "unpacked") / "README.md").read_text()


def test_the_card_names_the_file_of_the_data_while_its_owner_has_it(
    host: Host, models: Path, tmp_path: Path
) -> None:
    with host.database.transaction() as connection:
        new = files.NewFile(host.owner, "poems.jsonl", "fine-tune", 2, host.store.put(b"{}"))
        file_id = files.create(connection, new).id
    host.publish(models / "base", base=None, training_file=file_id)
    job_id = host.submit()
    host.start()
    card = (host.archive(host.end_of(job_id), tmp_path / "unpacked") / "README.md").read_text()
    assert f"| training | `poems.jsonl` | `{LINEAGE['training_sha256']}` |" in card


def test_somebody_else_s_model_is_not_there(host: Host, models: Path) -> None:
    host.publish(models / "adapter")
    with host.database.transaction() as connection:
        other = connection.execute(
            text("INSERT INTO owners (name) VALUES ('other') RETURNING id")
        ).scalar_one()
    job_id = host.submit(owner=other)
    host.start()
    row = host.end_of(job_id)
    assert (row.state, row.error["code"]) == ("failed", "model_unavailable")
    assert host.files() == 0


def test_a_model_whose_bytes_are_gone_is_explained(host: Host, models: Path) -> None:
    host.publish(models / "adapter")
    with host.database.transaction() as connection:
        found = published.find(connection, MINE)
    assert found is not None
    host.store.remove(found.files["adapter_model.safetensors"])
    job_id = host.submit()
    host.start()
    row = host.end_of(job_id)
    assert (row.state, row.error["code"]) == ("failed", "model_unavailable")
    assert "adapter_model.safetensors is gone from the artifact store" in row.error["message"]
    assert row.attempt == 1
    assert wait_for(lambda: not host.leftovers())


def test_a_store_without_room_keeps_nothing_and_is_tried_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise StorageFailed("The artifact store failed: No space left on device.")

    monkeypatch.setattr("jobs.artifacts.Writer.write", fail)
    job_id = host.submit("base")
    host.start(max_failures=1)
    row = host.end_of(job_id)
    assert (row.state, row.error["code"]) == ("failed", "server_error")
    assert "No space left" in row.error["message"]
    assert host.files() == 0
    assert not [path for path in (host.settings.var_dir.parent / "artifacts").rglob("*") if path.is_file()]


def process_of(host: Host) -> int | None:
    """The id of a process that works at an export here."""
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (each / "cmdline").read_bytes().split(b"\0")
            if str(host.settings.var_dir).encode() in b"".join(command) and b"-m" in command:
                return int(each.name)
    return None


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing process sleeps."""
    monkeypatch.setattr("trainer.export_attempt._WRITER", "tests.trainer.endless")


@pytest.mark.usefixtures("endless")
def test_a_cancel_ends_the_process_at_once(host: Host) -> None:
    job_id = host.submit("base")
    host.start()
    process = wait_for(lambda: process_of(host))
    with host.database.transaction() as connection:
        lifecycle.request_cancel(connection, job_id, host.owner)
    assert host.end_of(job_id).state == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert host.files() == 0
    assert wait_for(lambda: not host.leftovers())


@pytest.mark.usefixtures("endless")
def test_a_stop_hands_the_export_back_uncharged(host: Host) -> None:
    job_id = host.submit("base")
    host.start()
    process = wait_for(lambda: process_of(host))
    host.stop()
    row = host.row(job_id)
    assert (row.state, row.failures, row.crashes) == ("queued", 0, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not host.leftovers()


@pytest.mark.usefixtures("endless")
def test_the_lease_is_kept_while_an_export_takes_long(host: Host) -> None:
    job_id = host.submit("base")
    host.start()
    wait_for(lambda: process_of(host))
    begun = host.row(job_id).lease_until
    renewed = wait_for(lambda: (row := host.row(job_id)).lease_until > begun and row)
    assert (renewed.state, renewed.attempt) == ("running", 1)


def test_a_process_that_was_killed_is_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = export_process.run
    killed = threading.Event()

    def run(module: str, folder: Path, *rest: Any) -> Any:
        if killed.is_set():
            return real(module, folder, *rest)
        killed.set()
        return real("tests.trainer.suicide", folder, *rest)

    monkeypatch.setattr(export_process, "run", run)
    job_id = host.submit("base")
    host.start()
    row = host.end_of(job_id)
    assert (row.state, row.attempt, row.failures) == ("succeeded", 2, 1)
    assert host.files() == 1


def test_a_trainer_that_is_killed_takes_its_processes_along_and_another_goes_on(host: Host) -> None:
    job_id = host.submit("base")
    own = {
        "VAR_DIR": str(host.settings.var_dir),
        "DATABASE_URL": host.settings.database,
        "REDIS_URL": host.settings.redis,
        "ARTIFACTS_URL": host.settings.artifacts,
        "MODELS": host.settings.models,
        "LEASE_SECONDS": "1",
        "HEARTBEAT_SECONDS": "0.2",
        "PYTHONPATH": str(ROOT),
    }
    doomed = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.exporting"], cwd=ROOT, env=os.environ | own
    )
    try:
        wait_for(lambda: process_of(host), 60)
    finally:
        doomed.kill()
        doomed.wait()
    wait_for(lambda: process_of(host) is None, 5)

    def recover() -> bool:
        with host.database.transaction() as connection:
            return bool(lifecycle.recover_lost(connection))

    wait_for(recover)
    host.start()
    row = host.end_of(job_id)
    assert (row.state, row.attempt, row.crashes) == ("succeeded", 2, 1)
    assert host.files() == 1
    assert wait_for(lambda: not host.leftovers())


def test_an_export_whose_lease_went_to_another_writes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = host.submit("base")
    real = export_process.run

    def run(*arguments: Any) -> Any:
        answer = real(*arguments)
        with host.database.transaction() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(attempt=2))
        return answer

    monkeypatch.setattr(export_process, "run", run)
    host.start()
    wait_for(lambda: host.row(job_id).attempt == 2)
    wait_for(lambda: not host.leftovers())
    host.stop()
    assert host.row(job_id).output is None
    assert host.files() == 0
    with host.database.transaction() as connection:
        loose = connection.execute(select(func.count()).select_from(loose_artifacts)).scalar_one()
    assert loose >= 1, "its bytes are removed in an hour"


def test_what_a_killed_trainer_left_is_removed_at_the_start(host: Host) -> None:
    left = host.settings.var_dir / "trainer" / "exports" / "export-0123"
    left.mkdir(parents=True)
    host.start()
    wait_for(lambda: not left.exists())
