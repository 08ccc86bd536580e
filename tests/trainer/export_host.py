"""A host that exports, over real services, and an owner with a model: what tests of exports begin with."""

import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from jobs import files, published, submission
from jobs.artifacts import ArtifactStore
from jobs.attempts import NewJob, Tier
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.exports import KIND
from jobs.published import Published
from jobs.queue import QueueName
from jobs.settings import Settings
from jobs.states import FINAL
from jobs.tables import files as files_table
from jobs.tables import jobs
from tests.conftest import wait_for
from tests.trainer.small import LINEAGE, write_adapter, write_model
from trainer.exporter import Exporter

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
            tier=Tier.STANDARD,
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


@contextmanager
def working(settings: Settings, database: Database, owner: int, models: Path, folder: Path) -> Iterator[Host]:
    """A host whose disk and artifact store are in a folder, and whose MODELS has the folder `base`."""
    here = {
        "var_dir": folder / "here",
        "database_url": settings.database,
        "redis_url": settings.redis,
        "artifacts_url": f"file://{folder}/artifacts",
        "models": f"base={models / 'base'}",
        "lease_seconds": 3.0,
        "heartbeat_seconds": 0.5,
    }
    made = Host(settings.model_copy(update=here), database, owner)
    try:
        yield made
    finally:
        made.stop()


def write_models(folder: Path) -> Path:
    """The folders base and adapter."""
    write_model(folder / "base")
    (folder / "base" / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    write_adapter(folder / "base", folder / "adapter")
    return folder
