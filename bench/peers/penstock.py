"""Penstock's engine, in-process: every request submitted at once, then step after step."""

import argparse
from pathlib import Path

import torch

from bench.peers.job import Generate, Job, serve
from jobs.inputs import Sampling
from worker import loading
from worker.engine import Engine
from worker.sequence import Sequence


def load(asked: argparse.Namespace) -> Generate:
    """A folder in Hugging Face layout. Options: those of `build`."""
    torch.set_num_threads(1)  # as worker.app does: a pass has threads of its own
    engine = build(asked.model, asked.slots, asked.threads, **asked.option)
    return lambda job: generate(engine, job)


def build(
    folder: Path,
    slots: int,
    threads: int,
    method: str | None = None,
    device: str = "cpu",
    kernel: str = "auto",
    rows: str = "0",
    speculate: str = "yes",
) -> Engine:
    """An engine as the worker makes it, warmed up. `rows` 0: the worker's own choice.

    `kernel` is torch, auto, or `must`: raises RuntimeError where the C++ kernel does not serve the model.
    """
    loaded = loading.load(
        str(folder), method, device, kernel="torch" if kernel == "torch" else "auto", threads=threads
    )
    if kernel == "must" and loaded.path == "torch":
        raise RuntimeError(f"the C++ kernel does not serve {folder}: {loaded.why}")
    budget = int(rows) or slots + 96
    engine = Engine(loaded.model, loaded.tokenizer, slots, budget, speculate=speculate == "yes")
    engine.warm_up()
    return engine


def generate(engine: Engine, job: Job) -> list[list[int]]:
    """All of a job's requests."""
    engine.abandon()  # what earlier jobs left in the slots must not spare this one its prompts
    asked = zip(job.prompts, job.lengths, strict=True)
    sequences = [
        Sequence(prompt, sampling(job, length, number)) for number, (prompt, length) in enumerate(asked)
    ]
    for sequence in sequences:
        engine.submit(sequence)
    while not engine.idle:
        engine.step()
    return [sequence.tokens for sequence in sequences]


def sampling(job: Job, length: int, seed: int) -> Sampling:
    """A request's, in Penstock's words."""
    drawn = vars(job.sampling) if job.sampling else {"temperature": 0.0}
    return Sampling(max_tokens=length, seed=seed, ignore_eos=True, **drawn)


if __name__ == "__main__":
    serve(load)
