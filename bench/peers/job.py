"""The language between the bench and a contestant: a job as one line of JSON, its answer as another.

Needs nothing but Python, since it runs in every contestant's environment.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sampling:
    """How the tokens of a job are drawn."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 0.95
    repetition_penalty: float = 1.1


@dataclass(frozen=True)
class Job:
    """Requests that arrive at once: request i has `prompts[i]` and wants exactly `lengths[i]` tokens."""

    prompts: list[list[int]]
    lengths: list[int]
    sampling: Sampling | None = None  # None: greedy

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, line: str) -> "Job":
        """The opposite of `line`."""
        fields = json.loads(line)
        sampling = Sampling(**fields["sampling"]) if fields["sampling"] else None
        return cls(fields["prompts"], fields["lengths"], sampling)

    def short(self, tokens: int) -> "Job":
        """The same requests with at most so many tokens each: what warms up."""
        return Job(self.prompts, [min(length, tokens) for length in self.lengths], self.sampling)


@dataclass(frozen=True)
class Answer:
    """What a contestant says of one job."""

    seconds: float  # from handing over the requests to the last token
    tokens: list[list[int]]  # of each request, without its prompt


Generate = Callable[[Job], list[list[int]]]


def serve(load: Callable[[argparse.Namespace], Generate]) -> None:
    """Load the model, say so, then answer job after job, until there are no more."""
    asked = _arguments()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever a library prints is not an answer
        for answer in _answers(load(asked)):
            print(answer, file=answers, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, help="a folder or file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=32, help="requests in one batch, at most")
    parser.add_argument("--option", action="append", default=[], help="a contestant's own NAME=VALUE")
    asked = parser.parse_args()
    asked.option = dict(option.split("=", 1) for option in asked.option)
    return asked


def _answers(generate: Generate) -> Iterator[str]:
    yield json.dumps("ready")
    for line in sys.stdin:
        job = Job.parse(line)
        began = time.perf_counter()
        tokens = generate(job)
        yield json.dumps(asdict(Answer(time.perf_counter() - began, tokens)))
