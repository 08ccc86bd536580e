"""One attempt at an export, from claim to ending: orders it, has it written, packs it, has it pushed."""

import errno
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import structlog

from jobs import exports, files, lifecycle
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob, Ending
from jobs.database import Database
from jobs.errors import (
    DiskFull,
    HubFailed,
    JobError,
    ModelUnavailable,
    StorageFailed,
    Unexpected,
    WorkerStopping,
)
from jobs.exports import ExportInput
from jobs.files import NewFile
from jobs.settings import Settings
from jobs.states import State
from trainer import export_archive, export_process, hub
from trainer.attempt import Interrupted
from trainer.export_order import Answer, Order
from trainer.export_sources import Sources
from trainer.wishes import Wish

log = structlog.get_logger(__name__)

_WRITER, _PUSHER = "trainer.export", "trainer.hub"
_ERRORS = (ModelUnavailable, DiskFull, HubFailed)
_PURPOSE = "fine-tune-results"  # of OpenAI's closed list, the one for what came of a training


class Export:
    """`run` has a thread of its own; `wish` and `is_alive` are for any."""

    def __init__(
        self, job: ClaimedJob, database: Database, store: ArtifactStore, config: Settings, folder: Path
    ) -> None:
        """`folder` is the export's own: emptied now, and gone after `run`."""
        self.claim = job.claim
        self._job, self._folder = job, folder
        self._database, self._store, self._config = database, store, config
        self._wishes: set[Wish] = set()
        self._lock = threading.Lock()

    def wish(self, wish: Wish, _seconds: float = 0) -> None:
        """Want something of it; it is done at once."""
        with self._lock:
            self._wishes.add(wish)

    def is_alive(self) -> bool:
        """Always: each of its processes has a limit of its own."""
        return True

    def run(self) -> dict[str, Any] | BaseException | None:
        """Export; return what to end the attempt with, None where it has ended or is not ours any more."""
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._export()
            return None
        except Interrupted as interrupted:
            return self._outcome(interrupted.wish)
        except StorageFailed as error:
            failure = Unexpected(str(error))
            failure.__cause__ = error
            return failure
        except OSError as error:
            return _full(self._config.var_dir) if error.errno in (errno.ENOSPC, errno.EDQUOT) else error
        except Exception as error:  # noqa: BLE001  whatever it is, it is how the attempt ended
            return error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _export(self) -> None:
        work = ExportInput.model_validate(self._job.input)
        if work.is_pushed and self._config.hf_token is None:
            raise HubFailed(hub.NO_TOKEN)
        with self._database.transaction() as connection:
            owner_id = exports.owner_of(connection, self.claim.job_id)
        sources = Sources(self._config, self._database, self._store)
        order = sources.order(self._folder, self._job.model, owner_id, work)
        self._check()
        order.write()
        self._write()
        archive = self._pack(order, owner_id)
        self._end(archive, self._push() if work.is_pushed else Answer())

    def _write(self) -> None:
        own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self._config.threads)}
        answer = export_process.run(_WRITER, self._folder, self._check, own)
        if answer is None:
            self._complain("export died")
            said = "The export's process died, perhaps for want of memory; the trainer's log has more."
            raise Unexpected(said)
        if (error := _error(answer)) is not None:
            raise error

    def _pack(self, order: Order, owner_id: int) -> NewFile:
        """Put the folder into the store as one file; nothing is left of it where that fails."""
        with self._store.writer() as writer:

            def write(data: bytes) -> int:
                self._check()
                return writer.write(data)

            export_archive.pack(order.model, write)
            artifact = files.keep(self._database, writer)
            filename = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', order.name)}.zip"
            return NewFile(owner_id, filename, _PURPOSE, writer.size, artifact)

    def _push(self) -> Answer:
        assert self._config.hf_token is not None, "it was looked for before anything was done"
        own = {hub.TOKEN: self._config.hf_token}
        answer = export_process.run(_PUSHER, self._folder, self._check, own)
        if answer is None:
            self._complain("push died")
            said = "The push to the Hub broke off; the trainer's log has more. Export it again."
            return Answer(code=HubFailed.code, message=said)
        if answer.code is not None:
            self._complain("push failed")
        return answer

    def _end(self, archive: NewFile, answer: Answer) -> None:
        """Register the file and end the job with it, in one transaction."""
        with self._database.transaction() as connection:
            file_id = files.create(connection, archive).id
            output = {"file_id": file_id, "hub": answer.hub, "space": answer.space}
            ending = Ending(self.claim, output=output, error=_error(answer))
            if self.claim not in lifecycle.settle(connection, [ending]):
                raise Interrupted(Wish.LOST)
            if lifecycle.state_of(connection, self.claim.job_id) is State.CANCELLED:
                raise Interrupted(Wish.CANCEL)  # what was written is taken back, and the cancel settled

    def _check(self) -> None:
        with self._lock:
            wish = next((one for one in Wish if one in self._wishes), None)
        if wish is not None:
            raise Interrupted(wish)

    def _complain(self, what: str) -> None:
        log.error(what, job_id=self.claim.job_id, log=export_process.last_words(self._folder))

    def _outcome(self, wish: Wish) -> dict[str, Any] | BaseException | None:
        log.info("export interrupted", job_id=self.claim.job_id, wish=str(wish))
        match wish:
            case Wish.LOST:
                return None
            case Wish.CANCEL:
                return {}  # the cancel that was asked for wins
            case Wish.STOP | Wish.PAUSE:
                return WorkerStopping("The trainer stopped before this export was done.")


def _error(answer: Answer) -> JobError | None:
    if answer.code is None:
        return None
    kinds = {kind.code: kind for kind in _ERRORS}
    return kinds.get(answer.code, Unexpected)(answer.message)


def _full(folder: Path) -> DiskFull:
    free = shutil.disk_usage(folder).free
    return DiskFull(f"The disk of the trainer's host has too little room: {free / 1e6:,.0f} MB are free.")
