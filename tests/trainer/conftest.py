"""Fine-tunes in real PostgreSQL, and a trainer whose child does as its data says (see `pretended`)."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from jobs import claims, execution, files, finetunes, lifecycle, submission
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob, NewJob, Tier
from jobs.database import Database
from jobs.files import NewFile
from jobs.queue import QueueName
from jobs.settings import Settings
from jobs.tables import checkpoints, job_events, jobs
from tests.conftest import wait_for
from trainer.attempt import Attempt
from trainer.child import Child
from trainer.keeper import Keeper
from trainer.wishes import Wish
from trainer.workplace import Workplace

JOB = "ftjob-" + "ab" * 12
TINY = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64, "vocab_size": 300}


@dataclass
class Bench:
    """A host with a trainer, and the one job that it has."""

    database: Database
    settings: Settings
    owner: int
    attempt: Attempt | None = None
    thread: threading.Thread | None = None
    keeper: Keeper | None = None
    keeping: threading.Thread | None = None

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.settings.artifacts)

    def submit(self, *script: str, **more: Any) -> None:
        """A fine-tune whose child does this."""
        data = "\n".join(script).encode()
        artifact = self.store.put(data)
        with self.database.transaction() as connection:
            new = NewFile(self.owner, "script.txt", "fine-tune", len(data), artifact)
            file_id = files.create(connection, new).id
            asked: dict[str, Any] = {"training_file": file_id, "seed": 1, "hyperparameters": {}}
            asked |= {"init": "scratch", "architecture": TINY} | more
            job = NewJob(
                id=JOB,
                owner_id=self.owner,
                kind=finetunes.KIND,
                queue=QueueName.TRAIN,
                model="fresh",
                tier=Tier.STANDARD,
                request={"metadata": {}},
                input=asked,
            )
            submission.submit(connection, job)

    def claim(self, after: str = "") -> ClaimedJob:
        """Take the job, whatever it waits for."""
        with self.database.transaction() as connection:
            connection.execute(update(jobs).where(jobs.c.id == JOB).values(available_at=jobs.c.created_at))
            found = claims.claim_any(connection, QueueName.TRAIN, "trainer", self.settings.lease)
        assert found is not None, "there is no job to claim"
        return found

    def begin(self, host: str = "here") -> Attempt:
        """Claim and run the job in the background; `host` names its disk."""
        config = self.settings.model_copy(
            update={"var_dir": self.settings.var_dir / host, "artifacts_url": self.settings.artifacts}
        )
        job = self.claim()
        place = Workplace(config, self.database, self.store, lambda: "cpu")
        start: Callable[[Path], Child] = partial(Child, config=config, module="tests.trainer.pretended")
        attempt = Attempt(job, self.database, self.store, place, start)
        every = timedelta(seconds=config.heartbeat_seconds)
        self.keeper = Keeper(Database(config.database, 1), config.lease, every)
        self.keeper.keep(attempt)
        self.attempt = attempt
        self.keeping = threading.Thread(target=self.keeper.run, daemon=True)
        self.keeping.start()
        self.thread = threading.Thread(target=self._run, args=(job, attempt), daemon=True)
        self.thread.start()
        return attempt

    def _run(self, job: ClaimedJob, attempt: Attempt) -> None:
        outcome = attempt.run()
        if outcome is not None:
            with self.database.transaction() as connection:
                lifecycle.settle(connection, [execution.ending(job, outcome, self.settings.max_failures)])

    def end(self, seconds: float = 20) -> Any:
        """Wait until the attempt has ended; return the job's row."""
        assert self.thread is not None
        assert self.keeper is not None
        assert self.keeping is not None
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the attempt did not end"
        self.keeper.stop()
        self.keeping.join(5)
        return self.row()

    def train(self, host: str = "here") -> Any:
        """One attempt; return the job's row."""
        self.begin(host)
        return self.end()

    def row(self) -> Any:
        with self.database.transaction() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == JOB)).one()

    def change(self, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(update(jobs).where(jobs.c.id == JOB).values(**values))

    def events(self) -> list[Any]:
        """What the job said, in order."""
        with self.database.transaction() as connection:
            said = select(job_events).where(job_events.c.job_id == JOB, job_events.c.message.is_not(None))
            return list(connection.execute(said.order_by(job_events.c.id)).all())

    def messages(self) -> list[str]:
        return [event.message for event in self.events()]

    def checkpoints(self) -> list[int]:
        """The steps of those that are kept."""
        with self.database.transaction() as connection:
            mine = select(checkpoints.c.step).where(checkpoints.c.job_id == JOB)
            return list(connection.execute(mine.order_by(checkpoints.c.step)).scalars())

    def wait_for_message(self, part: str) -> None:
        wait_for(lambda: any(part in one for one in self.messages()))

    def folder(self, host: str = "here") -> Path:
        return self.settings.var_dir / host / "trainer" / JOB

    def cancel(self) -> None:
        with self.database.transaction() as connection:
            lifecycle.request_cancel(connection, JOB, self.owner)


@pytest.fixture
def bench(database: Database, services: Path, owner: int, tmp_path: Path) -> Iterator[Bench]:
    """A trainer with a lease of 3 seconds."""
    settings = Settings(
        var_dir=tmp_path,
        database_url=Settings(var_dir=services).database,
        redis_url=Settings(var_dir=services).redis,
        artifacts_url=f"file://{tmp_path / 'artifacts'}",
        lease_seconds=3,
        heartbeat_seconds=0.5,
    )
    made = Bench(database, settings, owner)
    yield made
    if made.thread is not None and made.thread.is_alive():
        assert made.attempt is not None
        made.attempt.wish(Wish.LOST)
        made.end()


@pytest.fixture(scope="session", autouse=True)
def training_processes() -> Iterator[None]:
    """One process imports what a training needs; all children are forked from it."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    before = dict(os.environ)
    os.environ.update(environment)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.session", "trainer.run"])
    yield
    os.environ.clear()
    os.environ.update(before)
