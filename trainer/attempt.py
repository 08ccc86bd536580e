"""One attempt at a fine-tune, from claim to ending: prepares, starts the child, hears it, publishes."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from jobs import files, lifecycle, published, training
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob, Ending
from jobs.database import Database
from jobs.errors import (
    DatabaseUnavailable,
    JobError,
    StorageFailed,
    TrainingCrashed,
    TrainingPaused,
    TrainingStalled,
    Unexpected,
    WorkerStopping,
)
from jobs.failpoints import failpoint
from jobs.files import NewFile
from jobs.states import State
from jobs.training import NewCheckpoint
from trainer import checkpoint, publishing
from trainer.child import Child
from trainer.publishing import Trained
from trainer.relay import Relay
from trainer.spec import CURVE, RESULT, TABLE
from trainer.wishes import Wish
from trainer.words import Chosen, Done, Entered, Failed, Forgotten, Saved, Stepped, Stopped, Word
from trainer.workplace import Prepared, Workplace

log = structlog.get_logger(__name__)

_LOOK = 0.2  # seconds between two looks at what is wished
_PHASE_SECONDS = 1800.0  # of loading, evaluating, saving, publishing and of the first step
_STEP_SECONDS = 120.0  # without a step, or 20 times the slowest of them
_PAUSE_SECONDS = 300.0  # for a checkpoint on the way into a pause


class Interrupted(Exception):
    """The attempt ends early, as it was wished."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self.wish = wish


class Attempt:
    """`run` has a thread of its own; `wish` and `is_alive` are for any."""

    def __init__(
        self,
        job: ClaimedJob,
        database: Database,
        store: ArtifactStore,
        workplace: Workplace,
        child: Callable[[Path], Child],
        gathers: bool = False,
    ) -> None:
        """`child` starts the training whose folder is prepared; `gathers`: other hosts are to join it."""
        self.claim = job.claim
        self._job = job
        self._database, self._store, self._workplace = database, store, workplace
        self._start = child
        self._gathers = gathers
        self._wishes: set[Wish] = set()
        self._phase = "loading"
        self._moved_at = time.monotonic()
        self._slowest = 0.0  # seconds of a step
        self._stop_until = 0.0  # time.monotonic(); by then a child that was asked to stop is killed
        self._trained_tokens = 0
        self._chosen: Chosen | None = None

    def wish(self, wish: Wish, seconds: float = _PAUSE_SECONDS) -> None:
        """Want something of it; a child that shall stop has so many seconds to save a checkpoint."""
        if wish not in self._wishes:
            self._stop_until = time.monotonic() + seconds
            self._wishes.add(wish)

    def is_alive(self) -> bool:
        """Whether something moved lately: a step, or a phase that may take long."""
        still = time.monotonic() - self._moved_at
        if self._phase == "training" and self._slowest:
            return still < max(_STEP_SECONDS, 20 * self._slowest)
        return still < _PHASE_SECONDS  # nobody knows yet how long a step takes

    def run(self) -> dict[str, Any] | BaseException | None:
        """Train; return what to end the attempt with, None where it has ended or is not ours any more."""
        try:
            prepared = self._workplace.prepare(self._job, self._check)
            self._move("loading")
            done = self._train(prepared)
            self._move("publishing")
            self._publish(prepared, done)
            return None
        except Interrupted as interrupted:
            return self._outcome(interrupted.wish)
        except StorageFailed as error:
            failure = Unexpected(str(error))
            failure.__cause__ = error
            return failure
        except Exception as error:  # noqa: BLE001  whatever it is, it is how the attempt ended
            return error

    def _outcome(self, wish: Wish) -> dict[str, Any] | BaseException | None:
        log.info("training interrupted", job_id=self.claim.job_id, wish=str(wish))
        match wish:
            case Wish.LOST:
                return None
            case Wish.CANCEL:
                return {"trained_tokens": self._trained_tokens}  # the cancel that was asked for wins
            case Wish.STOP:
                return WorkerStopping("The trainer stopped before this job was done.")
            case Wish.PAUSE:
                return TrainingPaused("The job rests.")

    def _strongest(self) -> Wish | None:
        return next((wish for wish in Wish if wish in self._wishes), None)

    def _check(self) -> None:
        if wish := self._strongest():
            raise Interrupted(wish)

    def _move(self, phase: str) -> None:
        self._phase, self._moved_at = phase, time.monotonic()

    def _train(self, prepared: Prepared) -> Done:
        relay = Relay(self._database, self.claim, prepared.progress)
        if (step := prepared.resume_step) is not None:
            relay.say(f"The training goes on from its checkpoint of step {step}.")
        if self._gathers:
            relay.gather(self.claim.attempt, prepared.resume_step)
        child = self._start(prepared.folder)
        try:
            return self._follow(child, prepared, relay)
        finally:
            child.close()
            relay.flush(at_once=True)

    def _follow(self, child: Child, prepared: Prepared, relay: Relay) -> Done:
        """Hear the child until it has ended."""
        asked = False
        last: Word | None = None
        while True:
            code = child.exit_code  # before the words: what it said at last is there then
            words = child.words(0 if code is not None else _LOOK)
            for word in words:
                last = self._hear(word, prepared, relay) or last
            if not relay.flush():
                raise Interrupted(Wish.LOST)
            wish = self._strongest()
            if wish in (Wish.LOST, Wish.CANCEL):
                raise Interrupted(wish)
            if wish is not None and not asked:
                child.stop()
                asked = True
            if wish is not None and time.monotonic() > self._stop_until:
                log.warning("the training did not stop in time and is ended", job_id=self.claim.job_id)
                raise Interrupted(wish)
            if not self.is_alive():
                raise TrainingStalled("The training made no step for long, so its process was ended.")
            if code is not None and not words:
                return self._ended(code, last, child)

    def _hear(self, word: Word, prepared: Prepared, relay: Relay) -> Word | None:
        """Act on a word; return it if it is a last one."""
        relay.hear(word)
        match word:
            case Entered():
                self._move(word.phase)
            case Chosen():
                self._chosen = word
                self._move(self._phase)
            case Stepped():
                self._slowest = max(self._slowest, time.monotonic() - self._moved_at)
                self._trained_tokens = word.trained_tokens
                self._move(self._phase)
            case Saved():
                self._keep(word, prepared, relay)
                self._moved_at = time.monotonic()
            case Forgotten():
                self._forget(word.step)
            case Done() | Failed() | Stopped():
                return word
            case _:
                self._moved_at = time.monotonic()
        return None

    def _ended(self, code: int, last: Word | None, child: Child) -> Done:
        """What the end of the child means."""
        wish = self._strongest()
        match last:
            case Done() if code == 0:
                return last
            case Failed():  # whatever torchrun made of it: the other processes may have been ended
                raise _error(last)
            case Stopped() if code == 0 and wish is not None:
                raise Interrupted(wish)
        if wish is not None:
            raise Interrupted(wish)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log.error("the training's process died", job_id=self.claim.job_id, how=how, log=child.last_words())
        raise TrainingCrashed(
            f"The training's process died ({how}), perhaps for want of memory; the trainer's log has more."
        )

    def _keep(self, word: Saved, prepared: Prepared, relay: Relay) -> None:
        """Put a checkpoint into the store and record it; where that fails the training goes on without."""
        folder = checkpoint.folder_of(prepared.folder, word.step)
        try:
            held = publishing.keep_all(self._database, self._store, folder)
            trained = self._trained(word.step, word.trained_tokens, word.metrics)
            name = publishing.name_of(prepared, self.claim.job_id, word.step)
            model = publishing.version(folder, name, held, prepared, self.claim.job_id, trained)
            new = NewCheckpoint(word.step, word.metrics, word.best, held, model)
            failpoint("before_checkpoint_row")
            with self._database.transaction() as connection:
                ours = training.keep_checkpoint(connection, self.claim, new)
            failpoint("after_checkpoint_row")
        except (StorageFailed, DatabaseUnavailable, OSError) as error:
            # it lies in the job's folder all the same, where this host finds it
            log.warning("a checkpoint is kept on this host only", step=word.step, error=str(error))
            relay.say(
                f"The checkpoint of step {word.step} could not be stored: it is on the trainer's disk only.",
                "warn",
            )
            return
        if not ours:
            raise Interrupted(Wish.LOST)

    def _forget(self, step: int) -> None:
        try:
            with self._database.transaction() as connection:
                training.forget_checkpoint(connection, self.claim, step)
        except DatabaseUnavailable as error:
            log.warning("an old checkpoint is forgotten later", step=step, error=str(error))

    def _trained(self, step: int, tokens: int, metrics: Any) -> Trained:
        assert self._chosen is not None, "a child says what it chose before it saves anything"
        return Trained(self._chosen.parameters, step, tokens, metrics, self._chosen.hyperparameters)

    def _publish(self, prepared: Prepared, done: Done) -> None:
        """Make the result a model, and end the job with it, in one transaction."""
        folder, job_id = prepared.folder / RESULT, self.claim.job_id
        held = publishing.keep_all(self._database, self._store, folder)
        name = publishing.name_of(prepared, job_id)
        trained = self._trained(done.steps, done.trained_tokens, done.metrics)
        model = publishing.version(folder, name, held, prepared, job_id, trained)
        kept = {each: self._result_file(prepared, each) for each in (TABLE, CURVE)}
        with self._database.transaction() as connection:
            made = [files.create(connection, new).id for new in kept.values()]
            output = {"fine_tuned_model": name, "trained_tokens": done.trained_tokens, "result_files": made}
            settled = lifecycle.settle(connection, [Ending(self.claim, output=output)])
            if self.claim not in settled:
                raise Interrupted(Wish.LOST)
            if lifecycle.state_of(connection, job_id) is not State.SUCCEEDED:
                raise Interrupted(
                    Wish.CANCEL
                )  # what was written is taken back, and the cancel settled by itself
            published.publish(connection, model)
            failpoint("before_settle_commit")
        failpoint("after_settle")

    def _result_file(self, prepared: Prepared, name: str) -> NewFile:
        path: Path = prepared.folder / name
        artifact = files.keep_file(self._database, self._store, path)
        filename = f"{self.claim.job_id}_{name}"
        return NewFile(prepared.owner_id, filename, "fine-tune-results", path.stat().st_size, artifact)


def _error(failed: Failed) -> JobError:
    """The error of a code that a child gave."""
    kinds: list[type[JobError]] = [JobError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    found = {kind.code: kind for kind in reversed(kinds) if kind is not JobError}
    error = found.get(failed.code, Unexpected)(failed.message)
    error.retryable = False  # a child that can say it knows that another attempt would end alike
    return error
