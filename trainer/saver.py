"""Makes a checkpoint of a training, says so, and lets older ones go."""

import errno
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from jobs.errors import DiskFull
from trainer import checkpoint, modelfolder
from trainer.callbacks.meter import Meter
from trainer.foundation import Foundation
from trainer.history import History, Row
from trainer.learner import Learner, barrier
from trainer.orders import Orders
from trainer.spec import ASIDE, Spec
from trainer.voice import Voice
from trainer.words import Entered, Forgotten, Saved


class Saver:
    """What every process of a training calls at the same steps."""

    def __init__(
        self, spec: Spec, foundation: Foundation, history: History, meter: Meter, orders: Orders, voice: Voice
    ) -> None:
        self._spec, self._foundation, self._history = spec, foundation, history
        self._meter, self._orders, self._voice = meter, orders, voice
        self._aside = spec.folder / f"{ASIDE}{spec.attempt}"

    def save(self, learner: Learner) -> None:
        """Save the step that was just made.

        Raises:
            TrainingDiverged: its numbers are none; the checkpoint before stays the last.
            DiskFull: there was no room; likewise.
        """
        self._voice.say(Entered(phase="saving"))
        self._meter.look(self._history.step, by_scaler=learner.args.fp16)
        is_best = self._history.judge_saved(self._history.step)
        try:
            self._write(learner)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not _is_full(error, self._spec.folder):
                raise
            raise DiskFull(
                f"The disk of the trainer was full when the checkpoint of step {self._history.step:,} was"
                " written. Make room, or lower 'save_total_limit', or train an adapter."
            ) from error
        self._orders.saved()
        if learner.args.should_save:
            self.tell(is_best)
            self._forget()
        barrier()
        self._voice.say(Entered(phase="training"))

    def tell(self, is_best: bool) -> None:
        """Say that the checkpoint of the newest step is there."""
        history = self._history
        metrics = metrics_of(history.at(history.step))
        if self._meter.last is not None:
            metrics |= {
                "train_loss": self._meter.last.loss,
                "train_mean_token_accuracy": self._meter.last.accuracy,
            }
        self._voice.say(
            Saved(step=history.step, trained_tokens=history.trained_tokens, best=is_best, metrics=metrics)
        )

    def _write(self, learner: Learner) -> None:
        aside, leads = self._aside, learner.args.should_save
        if leads:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
        learner.write_state(aside)
        if leads:
            self._history.write(aside)
            modelfolder.write(learner.model, self._spec, self._foundation, aside)
            checkpoint.seal(aside, self._spec.folder, self._history.step)

    def _forget(self) -> None:
        keep = self._history.chosen["save_total_limit"]
        for step in checkpoint.surplus(self._spec.folder, keep, self._history.best_step):
            checkpoint.remove(self._spec.folder, step)
            self._voice.say(Forgotten(step=step))


def metrics_of(row: Row) -> dict[str, Any]:
    """A row of the history under the names of OpenAI's checkpoints; all that is held out is evaluated."""
    names = {
        "step": "step",
        "train_loss": "train_loss",
        "train_accuracy": "train_mean_token_accuracy",
        "valid_loss": "valid_loss",
        "valid_mean_token_accuracy": "valid_mean_token_accuracy",
    }
    found = {name: row[ours] for ours, name in names.items() if row.get(ours) is not None}
    full = {f"full_{name}": value for name, value in found.items() if name.startswith("valid")}
    return found | full


def _is_full(error: BaseException, folder: Path) -> bool:
    """Torch and safetensors do not say it in a number."""
    return getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(folder).free < (1 << 20)
