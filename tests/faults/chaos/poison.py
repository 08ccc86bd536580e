"""`python -m tests.faults.chaos.poison`: the worker's entry, with a weakness for one prompt."""

import os
import signal
import weakref

from tokenizers import pre_tokenizers

from tests.faults.chaos import POISON
from worker import app
from worker.engine import Engine
from worker.sequence import Sequence

_SURVIVED = 2  # tokens that it gets, and its neighbours beside it


def weaken() -> None:
    """Let the process die, as a fault of a device would end it, a few steps after POISON joined the batch."""
    submit, step = Engine.submit, Engine.step
    poisons: weakref.WeakSet[Sequence] = weakref.WeakSet()

    def submit_and_look(engine: Engine, sequence: Sequence) -> None:
        submit(engine, sequence)
        if bytes(each - 1 for each in sequence.prompt if each) == _POISON:
            poisons.add(sequence)

    def step_or_die(engine: Engine) -> list[Sequence]:
        finished = step(engine)
        if any(len(poison.tokens) >= _SURVIVED for poison in poisons):
            os.kill(os.getpid(), signal.SIGKILL)
        return finished

    Engine.submit, Engine.step = submit_and_look, step_or_die  # type: ignore[method-assign, assignment]


def _codes(text: str) -> bytes:
    """The token ids of a text, less one, as bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    places = {letter: number for number, letter in enumerate(letters)}
    return bytes(places["Ġ" if each == " " else each] for each in text)


_POISON = _codes(POISON)


if __name__ == "__main__":
    weaken()
    app.main()
