"""Trains the starter model from scratch, in runs that resume each other: `python -m trainer.starter.train`.

A plain loop and not transformers' Trainer: the rate follows the clock to its end, two optimizers share the
weights, and a resumed run finds its place in the data from the step alone.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from trainer.starter import corpus, export, network, optimizer
from trainer.starter import tokenizer as bpe
from trainer.starter.blocks import Blocks

SEED = 1
BATCH = 8  # blocks per step
CHECKPOINT = "checkpoint.pt"


@dataclass
class Run:
    """A model on its way: all that a checkpoint holds, and nothing that can be made again."""

    model: GPT2LMHeadModel
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0  # of wall clock spent training, over all runs
    best: float = float("inf")  # the lowest held-out loss exported so far
    commands: list[str] = field(default_factory=list)  # the arguments of each run

    def save(self, folder: Path) -> None:
        """Write the checkpoint aside and move it into place."""
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{CHECKPOINT}.part"
        state = {
            "model": self.model.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "commands": self.commands,
        }
        torch.save(state, aside)
        os.replace(aside, folder / CHECKPOINT)

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint of this folder; the peak rates stay those of the code."""
        state = torch.load(folder / CHECKPOINT, weights_only=True)
        self.model.load_state_dict(state["model"])
        for each, saved in zip(self.optimizers, state["optimizers"], strict=True):
            peaks = [group["peak"] for group in each.param_groups]
            each.load_state_dict(saved)
            for group, peak in zip(each.param_groups, peaks, strict=True):
                group["peak"] = peak
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.commands = state["commands"]


def begin() -> Run:
    """A run at step 0 with weights drawn from the seed."""
    torch.manual_seed(SEED)
    model = network.make()
    return Run(model, optimizer.make(model))


def train(
    run: Run,
    blocks: Blocks,
    schedule: optimizer.Schedule,
    clock: Callable[[], float] = time.monotonic,
    compiled: bool = True,
) -> Iterator[float]:
    """Yield the loss of each step, in nats per token, until the schedule's end."""
    loss = torch.compile(network.loss) if compiled else network.loss
    last = clock()
    while (now := clock()) < schedule.end:
        run.seconds, last = run.seconds + now - last, now
        optimizer.set_rate(run.optimizers, schedule.factor(run.step, now))
        with network.half_precision():
            value = loss(run.model, blocks.of_step(run.step))
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        for each in run.optimizers:
            each.step()
            each.zero_grad()
        run.step += 1
        yield float(value.detach())


class Workplace:
    """The data, the tokenizer and the two folders that a run lives between."""

    def __init__(self, out: Path, exported: Path) -> None:
        self.out = out
        self.exported = exported
        self.corpus = corpus.split(corpus.read_documents(), SEED)
        self.tokenizer = self._tokenizer()
        self.learned = bpe.encode(self.tokenizer, self.corpus.train)
        self.held_out = bpe.encode(self.tokenizer, self.corpus.held_out)

    def _tokenizer(self) -> Tokenizer:
        """The one this folder began with, else a new one: the weights mean nothing with another."""
        if not (self.out / "tokenizer.json").exists():
            self.out.mkdir(parents=True, exist_ok=True)
            bpe.save(bpe.learn(document.text for document in self.corpus.train), self.out)
        return bpe.load(self.out)

    def keep(self, run: Run, losses: list[float]) -> None:
        """Judge the model, export it if it is the best so far, save a checkpoint and log a line."""
        with network.half_precision():
            held_out = network.held_out_loss(run.model, self.held_out, bpe.CONTEXT)
        if held_out < run.best:
            run.best = held_out
            export.write(run.model, self.tokenizer, self.facts(run), self.exported)
        run.save(self.out)
        line = {
            "step": run.step,
            "tokens": run.step * BATCH * bpe.CONTEXT,
            "seconds": round(run.seconds),
            "loss": round(sum(losses) / max(1, len(losses)), 4),
            "held_out": round(held_out, 4),
        }
        print(json.dumps(line), flush=True)

    def facts(self, run: Run) -> export.Facts:
        """What is known of this run so far."""
        parts = (self.corpus.train, self.corpus.held_out)
        return export.Facts(
            python=platform.python_version(),
            hardware=hardware(),
            seed=SEED,
            files=(len(parts[0]), len(parts[1])),
            bytes=(corpus.size(parts[0]), corpus.size(parts[1])),
            tokens=(len(self.learned), len(self.held_out)),
            parameters=run.model.num_parameters(),
            steps=run.step,
            tokens_seen=run.step * BATCH * bpe.CONTEXT,
            seconds=round(run.seconds),
            commands=tuple(run.commands),
        )


def hardware() -> str:
    """The processor in general terms."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores of an {names[0] if names else platform.machine()}, no GPU"


def read_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("var/starter"), help="checkpoint and tokenizer")
    parser.add_argument("--export", type=Path, default=Path("models/starter"), help="the model to ship")
    parser.add_argument("--minutes", type=float, required=True, help="of wall clock, for this run")
    parser.add_argument(
        "--decay-minutes",
        type=float,
        default=0.0,
        help="let the rate fall to zero over the last of them; 0: another run resumes this one",
    )
    parser.add_argument("--save-minutes", type=float, default=10.0, help="between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--eager", action="store_true", help="do not compile (that needs a C++ compiler)")
    return parser.parse_args()


def main() -> None:
    """Train for some minutes, with a checkpoint and an export every few of them and at the end."""
    started = time.monotonic()
    arguments = read_arguments()
    place = Workplace(arguments.out, arguments.export)
    run = begin()
    if arguments.resume:
        run.load(arguments.out)
    run.commands.append(" ".join(["python -m trainer.starter.train", *sys.argv[1:]]))
    blocks = Blocks(place.learned, bpe.CONTEXT, BATCH, SEED)
    schedule = optimizer.Schedule(started + 60 * arguments.minutes, 60 * arguments.decay_minutes)
    losses: list[float] = []
    due = started + 60 * arguments.save_minutes
    for loss in train(run, blocks, schedule, compiled=not arguments.eager):
        losses.append(loss)
        if time.monotonic() >= due:
            place.keep(run, losses)
            losses.clear()
            due = time.monotonic() + 60 * arguments.save_minutes
    place.keep(run, losses)


if __name__ == "__main__":
    main()
