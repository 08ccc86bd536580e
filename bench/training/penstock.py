"""Penstock's own training process, with a callback that waits for its turn: words, metrics and all."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from bench.training.turns import Turns
from trainer import session
from trainer.learner import Learner
from trainer.place import Place
from trainer.run import _train
from trainer.spec import Spec
from trainer.voice import Voice
from trainer.words import FIFO


class Waiting(TrainerCallback):
    """Steps when the bench says so; comes after all other callbacks."""

    def __init__(self, learner: "Obedient") -> None:
        self._turns, self._learner = Turns(), learner

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._turns.before_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._turns.after_step(self._learner.real, time.perf_counter() - self._learner.stepped_at)


class Obedient(Learner):
    """Counts the real tokens of each step for the bench."""

    real = 0
    stepped_at = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.callback_handler.callbacks.insert(0, Clock(self))
        self.add_callback(Waiting(self))

    def get_batch_samples(self, *args: Any) -> Any:
        self.real = 0
        return super().get_batch_samples(*args)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.real += int(inputs["input_ids"].numel())  # rows of one text have no padding
        return super().compute_loss(model, inputs, *args, **kwargs)


class Clock(TrainerCallback):
    """Comes before all other callbacks."""

    def __init__(self, learner: Obedient) -> None:
        self._learner = learner

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._learner.stepped_at = time.perf_counter()


def main(folder: Path) -> None:
    """Train as the folder's specification says."""
    os.mkfifo(folder / FIFO)
    threading.Thread(target=_listen, args=(folder,), daemon=True).start()
    session.__dict__["Learner"] = Obedient
    _train(Spec.read(folder), Voice.open(folder), Place.read())


def _listen(folder: Path) -> None:
    with (folder / FIFO).open("rb") as said:
        for _ in said:
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
