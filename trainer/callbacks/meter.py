"""Measures each step, and says what it came to."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jobs.errors import TrainingDiverged
from trainer.history import History
from trainer.tally import Counted, Tally
from trainer.voice import Voice
from trainer.words import Measured, Stepped

OFTEN, SELDOM = 100, 10  # a run of so many steps or fewer says metrics at each; others at least every tenth


class Meter(TrainerCallback):
    """Comes before whatever acts upon what is measured."""

    def __init__(self, history: History, tally: Tally, voice: Voice, waits: bool) -> None:
        self._history, self._tally, self._voice = history, tally, voice
        self._waits = waits  # whether looking at every step's loss costs time, as on a GPU
        self._every = max(1, min(SELDOM, history.total_steps // OFTEN))
        self.last: Counted | None = None
        self._counted = True  # whether the last step is in it
        self._said = history.step
        self._rate = 0.0
        self._began = self._measured_at = self._left_at = time.monotonic()
        self._first = history.step
        self._tokens = 0  # since the last metrics
        self._idle = 0.0  # seconds since then that went into other things than steps

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began = self._measured_at = self._left_at = time.monotonic()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._idle += time.monotonic() - self._left_at

    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        self._rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count; metrics every few steps, and where the last step or the first is.

        Raises TrainingDiverged.
        """
        history, step = self._history, state.global_step
        history.step = step
        due = step % self._every == 0 or step in (1, history.total_steps)
        self._counted = False
        if due or not self._waits or history.chosen["target_loss"] is not None:
            self.look(step, by_scaler=args.fp16)
        if due:
            self.say_metrics(step, args.fp16)
        self._voice.say(
            Stepped(
                step=step,
                total_steps=history.total_steps,
                trained_tokens=history.trained_tokens,
                seconds_left=self._seconds_left(step),
            )
        )
        self._left_at = time.monotonic()

    def look(self, step: int, by_scaler: bool = False) -> None:
        """Count what the step came to, once; under a scaler an infinite gradient only skips the step.

        Raises TrainingDiverged.
        """
        if self._counted:
            return
        self._counted = True
        counted = self._tally.count()
        if not counted.is_finite or not (by_scaler or counted.grad_norm < float("inf")):
            raise TrainingDiverged(
                f"The training diverged at step {step:,}: its loss is {counted.loss:g} and the norm of its"
                f" gradient {counted.grad_norm:g}. Lower 'learning_rate', or lengthen 'warmup_steps'."
            )
        self.last = counted
        self._history.trained_tokens += counted.tokens
        self._tokens += counted.tokens

    def say_metrics(self, step: int, by_scaler: bool = False) -> None:
        """Note the figures of the step that was just made, and say them, once."""
        if self._said == step:
            return
        self._said = step
        self.look(step, by_scaler)
        assert self.last is not None
        now = time.monotonic()
        seconds = now - self._measured_at - self._idle
        facts = {"train_loss": self.last.loss, "train_accuracy": self.last.accuracy}
        self._history.note(step, **facts, learning_rate=self._rate)
        data = {
            "step": step,
            "total_steps": self._history.total_steps,
            "train_loss": self.last.loss,
            "train_mean_token_accuracy": self.last.accuracy,
            "learning_rate": self._rate,
            "grad_norm": self.last.grad_norm,
            "tokens_per_second": self._tokens / seconds if seconds > 0 else None,
        }
        self._voice.say(Measured(data=data))
        self._measured_at, self._tokens, self._idle = now, 0, 0.0

    def _seconds_left(self, step: int) -> float | None:
        done = step - self._first
        spent = time.monotonic() - self._began
        return spent / done * (self._history.total_steps - step) if done else None
