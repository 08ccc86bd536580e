"""Decides after each step what comes next: an evaluation, a checkpoint, the end."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.callbacks.meter import Meter
from trainer.history import History
from trainer.orders import Orders


class Course(TrainerCallback):
    """Follows the plan, the orders, and how the losses go."""

    def __init__(self, history: History, meter: Meter, orders: Orders, evaluates: bool) -> None:
        self._history, self._meter, self._orders, self._evaluates = history, meter, orders, evaluates

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Set what Trainer shall do now. A stop puts the evaluation off, a checkpoint remembers it."""
        history, step = self._history, state.global_step
        self._orders.hear()
        ends = step >= history.total_steps or self._is_good_enough()
        evaluates = self._evaluates and (ends or step % history.chosen["eval_steps"] == 0)
        if ends or evaluates:
            self._meter.say_metrics(step, args.fp16)
        control.should_evaluate = evaluates and not self._orders.stopping
        history.owes_evaluation = evaluates  # until it is done
        history.finished = ends
        control.should_training_stop = ends or self._orders.stopping
        control.should_save = control.should_training_stop or self._is_to_save(step)
        return control

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """Keep the best; end where there was no gain for too long."""
        history, chosen = self._history, self._history.chosen
        history.owes_evaluation = False
        gained = history.judge(kwargs["metrics"]["valid_loss"])
        patience = chosen["early_stopping_patience"]
        if gained and (chosen["load_best_model_at_end"] or patience is not None):
            control.should_save = True
        if patience is not None and history.without_gain >= patience:
            history.finished = control.should_save = control.should_training_stop = True
        return control

    def _is_good_enough(self) -> bool:
        target, last = self._history.chosen["target_loss"], self._meter.last
        return target is not None and last is not None and last.loss < target

    def _is_to_save(self, step: int) -> bool:
        every = self._history.chosen["save_steps"]
        return self._orders.save_is_due if every == "auto" else step % every == 0
