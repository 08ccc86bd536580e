"""Says what an evaluation found, with a sample of what the model would write."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.history import History
from trainer.voice import Voice
from trainer.words import Measured, Said


class Examiner(TrainerCallback):
    """Comes before whatever acts upon an evaluation."""

    def __init__(self, history: History, voice: Voice, sample: Callable[[int], str]) -> None:
        self._history, self._voice, self._sample = history, voice, sample

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Note it and say it."""
        metrics: dict[str, float] = kwargs["metrics"]
        step = state.global_step
        row = self._history.note(step, **metrics)
        known = {"train_loss": row.get("train_loss"), "train_mean_token_accuracy": row.get("train_accuracy")}
        said = {name: value for name, value in known.items() if value is not None}
        facts = {"step": step, "total_steps": self._history.total_steps, **said, **metrics}
        self._voice.say(Measured(data=facts))
        self._voice.say(Said(message=self._sample(step)))
