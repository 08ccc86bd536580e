"""A training child that does as its data says: `python -m tests.trainer.pretended FOLDER`.

Each line of the training file is a verb and its argument: checkpoint 5, step 3, hang, until_stop, die 9, ...
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from tokenizers import Tokenizer, models

from trainer import checkpoint, lifeline
from trainer.spec import ASIDE, CURVE, RESULT, STOP, TABLE, Spec
from trainer.voice import Voice
from trainer.words import Chosen, Done, Entered, Failed, Forgotten, Measured, Said, Saved, Stepped, Stopped

CONFIG = {"n_positions": 64, "vocab_size": 300, "eos_token_id": 0}
METRICS: dict[str, float | int | None] = {"train_loss": 0.5}


class Pretended:
    """What it has come to."""

    def __init__(self, spec: Spec, voice: Voice) -> None:
        self.spec, self.say = spec, voice.say
        self.at = int(spec.resume.name.rpartition("-")[2]) if spec.resume else 0

    def choose(self) -> None:
        chosen = {"n_epochs": 1, "batch_size": 2, "learning_rate_multiplier": 1.0}
        facts = {"parameters": 10, "trainable": 4, "examples": 3, "tokens": 7}
        self.say(Chosen(hyperparameters=chosen, total_steps=9, **facts))
        self.say(Entered(phase="training"))

    def step(self, number: str) -> None:
        step = int(number)
        self.say(Stepped(step=step, total_steps=9, trained_tokens=10 * step, seconds_left=1.0))
        self.say(Measured(data={"step": step, "total_steps": 9, "train_loss": 1 / step}))

    def checkpoint(self, number: str) -> None:
        step = int(number)
        if step <= self.at:
            return
        aside = self.spec.folder / f"{ASIDE}{self.spec.attempt}"
        self.model(aside, f"weights of step {step}")
        (aside / "optimizer.pt").write_text(f"moments of step {step}")
        checkpoint.seal(aside, self.spec.folder, step)
        self.say(Saved(step=step, trained_tokens=10 * step, best=False, metrics=METRICS))

    def forget(self, number: str) -> None:
        checkpoint.remove(self.spec.folder, int(number))
        self.say(Forgotten(step=int(number)))

    def model(self, folder: Path, weights: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "tokenizer.json").write_text(Tokenizer(models.BPE()).to_str())
        (folder / "model.safetensors").write_text(weights)

    def message(self, text: str) -> None:
        self.say(Said(message=text))

    def phase(self, name: str) -> None:
        self.say(Entered(phase=name))  # type: ignore[arg-type]

    def until_stop(self, _: str) -> None:
        while not (self.spec.folder / STOP).exists():
            time.sleep(0.01)
        self.checkpoint("5")
        self.say(Stopped(step=5))
        sys.exit(0)

    def sleep(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def hang_unless(self, number: str) -> None:
        if self.at < int(number):
            self.hang("")

    def hang(self, _: str) -> None:
        while True:
            time.sleep(1)

    def die(self, number: str) -> None:
        os.kill(os.getpid(), signal.Signals(int(number)))

    def die_unless(self, number: str) -> None:
        if self.at < int(number):
            self.die("9")

    def fail(self, code: str) -> None:
        self.say(Failed(code=code, message="It cannot be trained."))
        sys.exit(0)

    def done(self, number: str) -> None:
        self.say(Entered(phase="publishing"))
        self.model(self.spec.folder / RESULT, "the last weights")
        for name in (TABLE, CURVE):
            (self.spec.folder / name).write_text(f"{name} of {self.spec.training.sha256}")
        facts = {"parameters": 10, "context": 64, "vocab_size": 300, "eos_token_id": 0, "is_adapter": False}
        self.say(Done(steps=int(number), trained_tokens=10 * int(number), metrics=METRICS, **facts))


def main() -> None:
    lifeline.hold()
    spec = Spec.read(Path(sys.argv[1]))
    pretended = Pretended(spec, Voice.open(spec.folder))
    pretended.choose()
    for line in spec.training.path.read_text().splitlines():
        verb, _, argument = line.partition(" ")
        getattr(pretended, verb)(argument)


if __name__ == "__main__":
    main()
