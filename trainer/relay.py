"""Brings what a child says into SQL, a few times a second at most; nothing is lost while SQL is away."""

import time
from collections.abc import Mapping
from typing import Any

import structlog

from jobs import training
from jobs.attempts import Claim
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.training import NewEvent
from trainer.words import Chosen, Measured, Said, Stepped, Word

log = structlog.get_logger(__name__)

_EVERY = 1.0  # seconds


class Relay:
    """The events and the progress of one attempt, on their way."""

    def __init__(self, database: Database, claim: Claim, progress: Mapping[str, Any]) -> None:
        self._database, self._claim = database, claim
        self.progress = dict(progress)
        # what an attempt before this one has said of these steps already is not said again
        self._told = {name: self.progress.get(name, -1) for name in ("train_told", "valid_told")}
        self._events: list[NewEvent] = []
        self._news = False
        self._flushed_at = 0.0

    def hear(self, word: Word) -> None:
        """Note what a word says to whoever watches."""
        match word:
            case Chosen():
                facts = {"hyperparameters": word.hyperparameters, "total_steps": word.total_steps}
                self._note(**facts, trainable_parameters=word.trainable, parameters=word.parameters)
                data = f"{word.examples:,} examples, {word.tokens:,} tokens an epoch"
                trained = f"{word.trainable:,} of {word.parameters:,} parameters"
                self.say(f"Training {trained} on {data}: {word.total_steps:,} steps.")
            case Stepped():
                left = word.seconds_left
                end = None if left is None else int(time.time() + left)
                self._note(step=word.step, total_steps=word.total_steps, estimated_finish=end)
                self._note(trained_tokens=word.trained_tokens)
            case Measured():
                self._measured(word)
            case Said():
                self.say(word.message, word.level)
            case _:
                pass

    def say(self, message: str, level: str = "info") -> None:
        """Add an event of our own."""
        self._events.append(NewEvent(message, level))
        self._news = True

    def gather(self, attempt: int, step: int | None) -> None:
        """Tell the other hosts that they are to join, and from which checkpoint all go on."""
        self._note(**{training.GATHERING: {"attempt": attempt, "step": step}})
        self.flush(at_once=True)

    def flush(self, at_once: bool = False) -> bool:
        """Write what has come together, if it is time; False: the claim is lost."""
        if not self._news or (not at_once and time.monotonic() - self._flushed_at < _EVERY):
            return True
        self._flushed_at = time.monotonic()
        try:
            with self._database.transaction() as connection:
                ours = training.report(connection, self._claim, self._events, self.progress)
        except DatabaseUnavailable as error:
            log.warning("what the training says waits for the database", error=str(error))
            return True
        self._events.clear()
        self._news = False
        return ours

    def _measured(self, word: Measured) -> None:
        kind = "train_told" if word.data.get("valid_loss") is None else "valid_told"
        step = int(word.data["step"] or 0)
        if step > self._told[kind]:
            self._events.append(NewEvent(_sentence(word.data), data=word.data))
            self._note(**{kind: step})

    def _note(self, **facts: Any) -> None:
        self.progress |= facts
        self._news = True


def _sentence(data: Mapping[str, Any]) -> str:
    """As OpenAI's events say it."""
    said = [f"Step {data.get('step')}/{data.get('total_steps')}"]
    names = {"train_loss": "training loss", "valid_loss": "validation loss"}
    said += [f"{words}={data[name]:.4f}" for name, words in names.items() if data.get(name) is not None]
    return ": ".join([said[0], ", ".join(said[1:])]) if said[1:] else said[0]
