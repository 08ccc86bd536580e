"""Time between the tokens of running sequences, alone and while long prompts arrive."""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch

from bench.peers.penstock import build
from bench.workloads import VOCABULARY
from jobs.inputs import Sampling
from worker.engine import Engine
from worker.sequence import Sequence

RUNNING = 8
PROMPT_TOKENS = 64
ARRIVING_TOKENS = 900
_ALONE_TOKENS = 100  # each of the running says so many before the first arrival
_TOKENS = 800


def measure(engine: Engine) -> tuple[list[float], list[float]]:
    """Seconds between tokens of eight sequences: before and while prompts of 900 tokens arrive in turn."""
    draw = random.Random(11)
    running = [_sequence(draw, PROMPT_TOKENS, _TOKENS) for _ in range(RUNNING)]
    for sequence in running:
        engine.submit(sequence)
    alone = _gaps(engine, running, _ALONE_TOKENS, None)
    return alone, _gaps(engine, running, _TOKENS, draw)


def _gaps(engine: Engine, running: list[Sequence], until: int, arrivals: random.Random | None) -> list[float]:
    gaps: list[float] = []
    arriving: Sequence | None = None
    last = [0.0] * len(running)
    while all(len(sequence.tokens) < until and not sequence.finished for sequence in running):
        if arrivals and (arriving is None or arriving.finished):
            engine.submit(arriving := _sequence(arrivals, ARRIVING_TOKENS, 1))
        before = [len(sequence.tokens) for sequence in running]
        engine.step()
        now = time.perf_counter()
        for number, sequence in enumerate(running):
            if len(sequence.tokens) > before[number]:
                if last[number]:
                    gaps.append(now - last[number])
                last[number] = now
    return gaps


def _sequence(draw: random.Random, prompt: int, tokens: int) -> Sequence:
    ids = [draw.randrange(VOCABULARY) for _ in range(prompt)]
    return Sequence(ids, Sampling(max_tokens=tokens, seed=0, temperature=0, ignore_eos=True))


def main() -> None:
    """Print milliseconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # as worker.app does: a pass has threads of its own
    alone, loaded = measure(build(asked.model, slots=32, threads=asked.threads))
    found = {
        "median_alone": statistics.median(alone) * 1000,
        "median": statistics.median(loaded) * 1000,
        "p99": statistics.quantiles(loaded, n=100)[-1] * 1000,
        "most": max(loaded) * 1000,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
