"""The engine alone, in a process of its own: the tokens per second that the stack is measured against."""

import argparse
import json
import time

import torch

from bench.client import length
from jobs import settings
from jobs.inputs import Sampling
from worker.engine import Engine
from worker.loading import load
from worker.sequence import Sequence


def run(source: str, prompt: str, tokens: int, sequences: int, slots: int) -> float:
    """Tokens per second of `sequences` continuations of about `tokens`; free slots are filled at once."""
    config = settings.read()
    torch.set_num_threads(1)  # as worker.app does: a pass has threads of its own
    model = load(source, None, config.device, threads=config.threads)
    engine = Engine(model.model, model.tokenizer, slots, slots + 96)
    engine.warm_up()
    lengths = [length(number, tokens) for number in range(sequences)]
    for _ in range(2):  # the first round touches the memory
        ids = model.tokenizer.encode(prompt).ids
        began = time.perf_counter()
        for number, count in enumerate(lengths):
            engine.submit(Sequence(ids, Sampling(max_tokens=count, seed=number, ignore_eos=True)))
        while not engine.idle:
            engine.step()
        seconds = time.perf_counter() - began
    return sum(lengths) / seconds


def main() -> None:
    """Print tokens per second as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="models/starter")
    parser.add_argument("--prompt", default="\ndef ")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=96)
    parser.add_argument("--slots", type=int, default=32)
    print(json.dumps({"tokens_per_second": run(**vars(parser.parse_args()))}))


if __name__ == "__main__":
    main()
