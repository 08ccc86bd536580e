"""A job's folder on this host: what an attempt finds there, what it puts there before the child starts."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import select

from jobs import files, training
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob
from jobs.database import Database
from jobs.errors import InvalidTrainingFile, InvalidValidationFile, JobError, ModelUnavailable, StorageFailed
from jobs.finetune_input import FinetuneInput
from jobs.settings import Settings
from jobs.states import FINAL
from jobs.tables import jobs
from trainer import checkpoint
from trainer.bases import Base, Bases, fetch_folder
from trainer.spec import SPEC, Data, Spec

log = structlog.get_logger(__name__)

_DATA = "files"
_NEWEST = -1  # no step of a checkpoint
_MODELS = "models"


@dataclass(frozen=True)
class Prepared:
    """All that a child needs is in the folder."""

    folder: Path
    work: FinetuneInput
    owner_id: int
    model: str
    base: Base | None  # None: from scratch, from a shape alone
    progress: dict[str, object]  # of the attempts before
    resume_step: int | None  # of the checkpoint that it goes on from
    sources: dict[str, str]  # SHA-256 of the files that are trained on and judged by


class Workplace:
    """The folders of all jobs of this host."""

    def __init__(
        self, config: Settings, database: Database, store: ArtifactStore, device: Callable[[], str]
    ) -> None:
        """`device` says cpu or cuda, once somebody has looked."""
        self._root = config.var_dir / "trainer"
        self._config, self._database, self._store = config, database, store
        self._device = device
        (self._root / _MODELS).mkdir(parents=True, exist_ok=True)
        self._bases = Bases(config, database, store, self._root / _MODELS)

    def folder(self, job_id: str) -> Path:
        """A job's folder, there or not."""
        return self._root / job_id

    def prepare(
        self, job: ClaimedJob, still_wanted: Callable[[], None], resume: int | None = _NEWEST
    ) -> Prepared:
        """Bring everything together; `still_wanted` raises where it is no longer worth it.

        `resume` is the step of the checkpoint to go on from, where somebody else has chosen it.

        Raises:
            JobError: a file or the base model cannot be had.
            StorageFailed: the artifact store is out of reach, or the disk is full.
        """
        folder = self.folder(job.claim.job_id)
        (folder / _DATA).mkdir(parents=True, exist_ok=True)
        work = FinetuneInput.model_validate(job.input)
        with self._database.transaction() as connection:
            row = training.read(connection, job.claim.job_id)
        base = self._base(work, row.model, row.owner_id)
        still_wanted()
        learned = self._data(folder, row.owner_id, work.training_file, InvalidTrainingFile)
        judged = None
        if work.validation_file is not None:
            judged = self._data(folder, row.owner_id, work.validation_file, InvalidValidationFile)
        tokenizer = self._tokenizer(work, row.owner_id, base)
        still_wanted()
        step = self._newest_checkpoint(folder, job.claim.job_id, resume)
        spec = Spec(
            folder=folder,
            attempt=job.claim.attempt,
            device="cuda" if self._device() == "cuda" else "cpu",
            threads=self._config.threads,
            model=base.folder if base else None,
            base_adapter=base.adapter if base else None,
            base_name=row.model,
            init=work.init,
            architecture=work.architecture,
            tokenizer=tokenizer,
            adapter=work.adapter,
            training=learned,
            validation=judged,
            seed=work.seed,
            hyperparameters=work.hyperparameters,
            resume=None if step is None else checkpoint.folder_of(folder, step),
        )
        (folder / SPEC).write_text(spec.model_dump_json(indent=2))
        sources = {"training_sha256": learned.sha256} | (
            {"validation_sha256": judged.sha256} if judged else {}
        )
        return Prepared(folder, work, row.owner_id, row.model, base, row.progress, step, sources)

    def clear(self, job_id: str) -> None:
        """Remove the folder of a job that has ended."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def prune(self) -> None:
        """Remove the folders of jobs that ended elsewhere, or are gone."""
        here = {path.name for path in self._root.glob("ftjob-*")}
        alive = select(jobs.c.id).where(jobs.c.id.in_(here), jobs.c.state.not_in(FINAL))
        with self._database.transaction() as connection:
            kept = set(connection.execute(alive).scalars())
        for job_id in here - kept:
            self.clear(job_id)
        self._bases.prune()

    def _base(self, work: FinetuneInput, model: str, owner_id: int) -> Base | None:
        if work.init == "scratch" and work.architecture is not None:
            return None
        return self._bases.find(model, owner_id)

    def _tokenizer(self, work: FinetuneInput, owner_id: int, base: Base | None) -> Path | None:
        """Of a start from scratch: the folder of that which was asked for, or came with the base's shape."""
        if work.init != "scratch":
            return None
        if work.tokenizer is not None:
            return self._bases.find(work.tokenizer, owner_id).folder
        return base.folder if base else None

    def _data(self, folder: Path, owner_id: int, file_id: str, kind: type[JobError]) -> Data:
        with self._database.transaction() as connection:
            record = files.find(connection, owner_id, file_id)
        if record is None:
            raise kind("Its file is gone. Upload it again and create another fine-tune.")
        path = folder / _DATA / record.artifact
        if not path.exists():
            aside = path.with_suffix(".part")
            aside.unlink(missing_ok=True)
            try:
                self._store.fetch(record.artifact, aside)
            except FileNotFoundError:
                raise kind("The bytes of its file are gone. Upload it again.") from None
            aside.rename(path)
        return Data(path=path, filename=record.filename, sha256=record.artifact)

    def _newest_checkpoint(self, folder: Path, job_id: str, wanted: int | None) -> int | None:
        """The step of the newest whose manifest verifies, of this host's and of those in the store.

        Where one is wanted, that one or none.
        """
        with self._database.transaction() as connection:
            kept = training.kept(connection, job_id)
        for step in sorted({*checkpoint.steps(folder), *kept}, reverse=True):
            if wanted not in (_NEWEST, step):
                continue
            path = checkpoint.folder_of(folder, step)
            if checkpoint.is_whole(path) or (step in kept and self._fetched(kept[step], path, step)):
                return step
        return None

    def _fetched(self, held: dict[str, str], path: Path, step: int) -> bool:
        """Whether a checkpoint of the store is whole; it then lies in the folder."""
        shutil.rmtree(path, ignore_errors=True)
        aside = path.with_name(f".{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            fetch_folder(self._store, held, aside)
        except (ModelUnavailable, StorageFailed) as error:
            log.warning("a checkpoint is not whole, the one before it serves", step=step, error=str(error))
            shutil.rmtree(aside, ignore_errors=True)
            return False
        aside.rename(path)
        return checkpoint.is_whole(path)
