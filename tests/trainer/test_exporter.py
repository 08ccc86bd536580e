"""Exports as jobs: claimed, written by a process of their own, kept as a file, pushed, cancelled, killed."""

import os
import secrets
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from jobs import files, lifecycle, published, submission, trainers
from jobs.artifacts import ArtifactStore
from jobs.attempts import STANDARD, NewJob
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.errors import StorageFailed
from jobs.exports import HUB, KIND
from jobs.published import Published
from jobs.queue import QueueName
from jobs.settings import Settings
from jobs.states import FINAL
from jobs.tables import files as files_table
from jobs.tables import jobs, loose_artifacts
from tests.conftest import ROOT, wait_for
from tests.trainer.fake_hub import READER, TOKEN, FakeHub, serving
from tests.trainer.small import LINEAGE, write_adapter, write_model
from trainer import export_process
from trainer.exporter import Exporter
from trainer.hub import NO_TOKEN
from trainer.surveyor import Surveyor

MINE = "ft:base:org-1:mine:0123456789ab"


class Host:
    """A host that exports, and an owner with a fine-tuned model."""

    def __init__(self, settings: Settings, database: Database, owner: int) -> None:
        self.settings, self.database, self.owner = settings, database, owner
        self.store = ArtifactStore(settings.artifacts)
        self._running: list[Exporter] = []

    def publish(self, folder: Path, base: str | None = "base", **past: Any) -> None:
        """Make a folder a model of the owner: an adapter over the base, or a whole one without."""
        held = {path.name: self.store.put(path.read_bytes()) for path in folder.iterdir()}
        version = ModelVersion(
            name=MINE,
            digest=secrets.token_hex(32),
            quantization="fp32",
            parameters=1,
            context=64,
            vocab_size=300,
            eos_token_id=0,
            tokenizer=held["tokenizer.json"],
            chat_template=None,
            slots=1,
        )
        lineage = LINEAGE | {"root": "base", "base": "base"} | past
        with self.database.transaction() as connection:
            published.publish(connection, Published(version, self.owner, "ftjob-1", lineage, base, held))

    def submit(self, model: str = MINE, owner: int | None = None, **asked: Any) -> str:
        """Ask for an export."""
        job = NewJob(
            id=f"export-{secrets.token_hex(12)}",
            owner_id=owner or self.owner,
            kind=KIND,
            queue=QueueName.EXPORT,
            model=model,
            behind=STANDARD,
            request={},
            input={"push_to_hub": None, "space": None, "private": True, **asked},
        )
        with self.database.transaction() as connection:
            submission.submit(connection, job)
        return job.id

    def start(self, **changes: Any) -> Exporter:
        """Begin to work."""
        exporter = Exporter(self.settings.model_copy(update=changes))
        exporter.start()
        self._running.append(exporter)
        return exporter

    def stop(self) -> None:
        for exporter in self._running:
            exporter.stop()
            exporter.close()
        self._running.clear()

    def row(self, job_id: str) -> Any:
        with self.database.transaction() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()

    def end_of(self, job_id: str) -> Any:
        """The job's row once it has ended."""
        return wait_for(lambda: (row := self.row(job_id)).state in FINAL and row, 60)

    def archive(self, row: Any, to: Path) -> Path:
        """The folder in the file that an export made."""
        with self.database.transaction() as connection:
            record = files.find(connection, self.owner, row.output["file_id"])
        assert record is not None
        assert record.purpose == "fine-tune-results"
        with self.store.open(record.artifact) as stream, zipfile.ZipFile(stream) as archive:
            archive.extractall(to)
        assert record.bytes > 0
        return to

    def leftovers(self) -> list[Path]:
        return list((self.settings.var_dir / "trainer" / "exports").glob("*"))

    def files(self) -> int:
        with self.database.transaction() as connection:
            return connection.execute(select(func.count()).select_from(files_table)).scalar_one()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders base and adapter."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "base")
    (folder / "base" / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    write_adapter(folder / "base", folder / "adapter")
    return folder


@pytest.fixture
def host(settings: Settings, database: Database, owner: int, models: Path, tmp_path: Path) -> Iterator[Host]:
    here = {
        "var_dir": tmp_path / "here",
        "database_url": settings.database,
        "redis_url": settings.redis,
        "artifacts_url": f"file://{tmp_path}/artifacts",
        "models": f"base={models / 'base'}",
        "lease_seconds": 3.0,
        "heartbeat_seconds": 0.5,
    }
    made = Host(settings.model_copy(update=here), database, owner)
    yield made
    made.stop()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
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


def test_model_and_space_are_pushed(host: Host, models: Path, hub: FakeHub) -> None:
    host.publish(models / "base", base=None)
    job_id = host.submit(push_to_hub="me/poems", space="me/try-poems", private=False)
    host.start(hf_token=TOKEN)
    row = host.end_of(job_id)
    assert row.state == "succeeded", row.error
    assert row.output["hub"] == f"{hub.url}/me/poems"
    assert row.output["space"] == f"{hub.url}/spaces/me/try-poems"
    assert row.output["file_id"]
    model, space = hub.repositories["models", "me/poems"], hub.repositories["spaces", "me/try-poems"]
    assert {"README.md", "model.safetensors", "tokenizer.json", "config.json"} <= set(model.files)
    assert not [name for name in model.files if name.startswith("space/")]
    assert set(space.files) == {"app.py", "requirements.txt", "README.md"}
    assert space.variables == {"MODEL_ID": "me/poems"}
    assert (model.private, space.private, space.sdk) == (False, False, "gradio")
    assert b'from_pretrained("me/poems")' in model.files["README.md"]


def test_a_private_space_brings_its_model(host: Host, hub: FakeHub) -> None:
    job_id = host.submit("base", push_to_hub="me/base", space="me/base")
    host.start(hf_token=TOKEN)
    assert host.end_of(job_id).state == "succeeded"
    space = hub.repositories["spaces", "me/base"]
    assert {"app.py", "model/config.json", "model/model.safetensors"} <= set(space.files)
    assert space.variables == {}
    assert space.private
    assert hub.repositories["models", "me/base"].private


def test_a_second_push_goes_into_the_same_repository(host: Host, hub: FakeHub) -> None:
    host.start(hf_token=TOKEN)
    for _ in range(2):
        row = host.end_of(host.submit("base", push_to_hub="me/base"))
        assert (row.state, row.output["hub"]) == ("succeeded", f"{hub.url}/me/base")
    assert len(hub.repositories) == 1


REFUSED = [
    ("hf_nobody_s", "does not know the token in HF_TOKEN"),
    (READER, "may not write to 'me/base'"),
]


@pytest.mark.parametrize(("token", "said"), REFUSED)
def test_a_push_that_the_hub_refuses_leaves_the_file(host: Host, hub: FakeHub, token: str, said: str) -> None:
    job_id = host.submit("base", push_to_hub="me/base")
    host.start(hf_token=token)
    row = host.end_of(job_id)
    assert (row.state, row.error["code"], row.attempt) == ("failed", "hub_failed", 1)
    assert said in row.error["message"]
    assert token not in row.error["message"]
    assert row.output["file_id"]
    assert hub.repositories == {}


def test_what_was_pushed_before_a_failure_is_named(host: Host, hub: FakeHub) -> None:
    hub.refused = "spaces"
    job_id = host.submit("base", push_to_hub="me/base", space="me/base")
    host.start(hf_token=TOKEN)
    row = host.end_of(job_id)
    assert (row.state, row.output["hub"], row.output["space"]) == ("failed", f"{hub.url}/me/base", None)
    assert "refused 'me/base' with status 400. Spaces rest" in row.error["message"]


def test_a_hub_that_is_out_of_reach_is_explained(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    host.start(hf_token=TOKEN)
    for offline, said in (("1", "HF_HUB_OFFLINE is set"), ("0", "could not be reached")):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        row = host.end_of(host.submit("base", push_to_hub="me/base"))
        assert (row.state, row.error["code"]) == ("failed", "hub_failed")
        assert said in row.error["message"]
        assert row.output["file_id"]


def test_without_a_token_nothing_is_even_written(host: Host, hub: FakeHub) -> None:
    job_id = host.submit("base", push_to_hub="me/base")
    host.start()
    row = host.end_of(job_id)
    assert (row.state, row.error["message"]) == ("failed", NO_TOKEN)
    assert (host.files(), hub.repositories) == (0, {})


def test_a_trainer_says_whether_it_has_a_token(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = '{"device": "cpu", "precisions": [], "refused": {}, "calibration": {}, "memory": 1}'
    monkeypatch.setattr(
        "trainer.surveyor.subprocess.Popen",
        lambda *_, **__: type(
            "P",
            (),
            {
                "communicate": lambda self, timeout=None: (measured, ""),
                "returncode": 0,
            },
        )(),
    )
    for token, reason in ((None, NO_TOKEN), (TOKEN, None)):
        config = host.settings.model_copy(update={"hf_token": token})
        found = Surveyor(config, host.database)._measure()
        assert found is not None
        with host.database.transaction() as connection:
            trainers.report(connection, found)
            assert trainers.refusal(connection, HUB) == reason
