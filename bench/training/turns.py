"""The language between bench/trainer.py and a contestant: a number of steps, then how long they took.

Needs nothing but Python, since it runs in the peers' environment too.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TextIO


@dataclass(frozen=True)
class Turn:
    """Some steps of one contestant."""

    seconds: float
    cpu_seconds: float  # of all its threads
    tokens: int  # real ones, no padding
    beside: float = 0.0  # seconds of these that went into other things than learning: metrics, words


class Turns:
    """Lets steps pass as many at a time as the bench asks for; between them the contestant waits."""

    def __init__(self) -> None:
        self._answers: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints is not an answer
        self._left = 0
        self._tokens = 0
        self._beside = self._began = self._cpu = 0.0

    def before_step(self) -> None:
        """Wait for a turn, if there is none; the process ends when the bench does."""
        if self._left:
            return
        if self._began:
            self._answer()
        else:
            print(json.dumps("ready"), file=self._answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        self._left, self._tokens, self._beside = int(line), 0, 0.0
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def after_step(self, tokens: int, beside: float = 0.0) -> None:
        """A step is done, of so many real tokens."""
        self._left -= 1
        self._tokens += tokens
        self._beside += beside

    def serve(self, step: Callable[[], int]) -> None:
        """Make steps, each of which returns its tokens, until the bench ends."""
        while True:
            self.before_step()
            self.after_step(step())

    def _answer(self) -> None:
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        turn = Turn(seconds, cpu, self._tokens, self._beside)
        print(json.dumps(asdict(turn)), file=self._answers, flush=True)
