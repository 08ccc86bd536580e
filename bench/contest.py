"""Contestants side by side: each a process of its own, asked in turn, round after round."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bench.peers.job import Answer, Job
from stack import ROOT

WARM_UP_TOKENS = 8
PACKAGE = "bench.peers."
_STOP_SECONDS = 20


@dataclass(frozen=True)
class Contestant:
    """Who takes part: bench.peers.`module`, run by `python`, with `model` and its own options."""

    name: str
    module: str
    python: Path
    model: Path
    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    once: bool = False  # so slow that one round must do


class Entrant(Protocol):
    """Who is ready to be asked."""

    name: str
    once: bool

    def rate(self, job: Job) -> float:
        """Do a job; returns tokens per second in total, the prompts' pass included."""


class Process:
    """A contestant's running process, its model loaded."""

    def __init__(self, contestant: Contestant, threads: int, slots: int) -> None:
        self.name, self.once = contestant.name, contestant.once
        options = [f"--option={name}={value}" for name, value in contestant.options.items()]
        command = [contestant.python, "-m", f"{PACKAGE}{contestant.module}", contestant.model, *options]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [*map(str, command), f"--threads={threads}", f"--slots={slots}"],
            cwd=ROOT,
            env={**os.environ, **own, **contestant.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()
        self._pause()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, job: Job) -> Answer:
        """Let it do a job. Raises RuntimeError where an answer has not the tokens that were asked for."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        print(job.line(), file=self._process.stdin, flush=True)
        answer = Answer(**json.loads(self._read()))
        self._pause()
        counts = [len(tokens) for tokens in answer.tokens]
        if counts != job.lengths:
            raise RuntimeError(f"{self.name} gave {counts} tokens, not {job.lengths}")
        return answer

    def rate(self, job: Job) -> float:
        """Do a job; returns tokens per second in total, the prompts' pass included."""
        return sum(job.lengths) / self.ask(job).seconds

    def _pause(self) -> None:
        """Threads that spin while they wait for work would take it from whoever is asked next."""
        self._process.send_signal(signal.SIGSTOP)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}; its output says why")
        return line


Rates = dict[str, dict[str, list[float]]]
"""Tokens per second of each round, by workload and contestant."""


@contextmanager
def started(contestants: Iterable[Contestant], threads: int, slots: int) -> Iterator[list[Entrant]]:
    """All of them, one after the other; they end with the block."""
    with ExitStack() as running:
        yield [running.enter_context(Process(contestant, threads, slots)) for contestant in contestants]


def compete(entrants: list[Entrant], workloads: dict[str, Job], rounds: int) -> Rates:
    """Ask everyone everything, `rounds` times, one after the other; before that, a short job to warm up."""
    rates: Rates = {name: {} for name in workloads}
    for number in range(rounds):
        for name, job in workloads.items():
            for entrant in entrants:
                if number and entrant.once:
                    continue
                if not number:
                    entrant.rate(job.short(WARM_UP_TOKENS))
                rate = entrant.rate(job)
                rates[name].setdefault(entrant.name, []).append(rate)
                print(f"{number + 1}  {name:<8} {entrant.name:<40} {rate:8.0f}", file=sys.stderr, flush=True)
    return rates


def best_of(rates: dict[str, list[float]], names: list[str]) -> str:
    """Whose median is the highest."""
    return max(names, key=lambda name: statistics.median(rates[name]))


def ratios(rates: dict[str, list[float]], ours: str, theirs: list[str]) -> list[float]:
    """Ours over the best of theirs, round by round, as far as both went."""
    return [mine / other for mine, other in zip(rates[ours], rates[best_of(rates, theirs)], strict=False)]
