"""A worker whose process ends in the middle of a step that one certain prompt takes part in.

`python -m tests.faults.poisoned`
"""

import os
from typing import Any

from worker import app
from worker.engine import Engine
from worker.sequence import Sequence

POISON = "\ndef poison("
_SURVIVED = 3  # steps beside it


class Poisoned(Engine):
    """An engine that dies of it."""

    _steps_left: int | None = None
    _tokens: list[int]

    def __init__(self, model: Any, tokenizer: Any, *sizes: Any, **how: Any) -> None:
        self._tokens = tokenizer.encode(POISON, add_special_tokens=False).ids
        super().__init__(model, tokenizer, *sizes, **how)

    def submit(self, sequence: Sequence) -> None:
        if list(sequence.prompt) == self._tokens:
            self._steps_left = _SURVIVED
        super().submit(sequence)

    def step(self) -> list[Sequence]:
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left < 0:
                os._exit(1)
        return super().step()


if __name__ == "__main__":
    from worker import residents

    residents.Engine = Poisoned  # type: ignore[misc, assignment]
    app.main()
