"""Training, beside a plain loop and beside transformers.Trainer on padded lines: `make bench-trainer`.

All contestants hold a network of GPT-2's 124 M parameters and wait; they are let step in turn, a few steps
each, round after round, so that whatever else the machine does hits all. Ratios are of one round.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.training.turns import Turn
from jobs.finetune_input import PRESETS, Hyperparameters
from stack import ROOT
from trainer.launch import environment
from trainer.spec import SPEC, Data, Spec
from trainer.words import FIFO, WORD, Entered, Saved

PEERS = Path(os.environ.get("TRAINER_PEERS", ROOT / ".venv-trainer-peers")) / "bin" / "python"
ROWS, BLOCK = 4, 256  # of a step
VOCABULARY = 50257
GOALS = {"plain loop": 1.0, "padded lines": 1.5}


class Contestant:
    """A process that trains when it is let."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert json.loads(self._read()) == "ready"

    def steps(self, count: int) -> Turn:
        """Let it make so many."""
        assert self._process.stdin is not None
        print(count, file=self._process.stdin, flush=True)
        return Turn(**json.loads(self._read()))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contestant ended: {self._process.args!r}")
        return line


def spec_in(folder: Path, threads: int, steps: int, **hyperparameters: object) -> Spec:
    """GPT-2 from fresh weights on a text of random words, in rows without padding."""
    text = folder / "text.txt"
    words = (hashlib.sha256(str(number).encode()).hexdigest()[:5] for number in range(60_000))
    text.write_text(" ".join(words))
    job = folder / "job"
    job.mkdir()
    asked: dict[str, object] = {
        "batch_size": ROWS,
        "block_size": BLOCK,
        "gradient_accumulation_steps": 1,
        "n_epochs": 50,
    }
    asked |= {"max_steps": steps, "eval_steps": 10**6, "save_steps": 10**6, "precision": "bf16"}
    spec = Spec(
        folder=job,
        attempt=1,
        device="cpu",
        threads=threads,
        model=None,
        base_name="gpt2",
        init="scratch",
        architecture=PRESETS["gpt2"].model_copy(update={"vocab_size": VOCABULARY}),
        tokenizer=ROOT / "models" / "starter",
        adapter="full",
        training=Data(path=text, filename=text.name, sha256=hashlib.sha256(text.read_bytes()).hexdigest()),
        validation=None,
        seed=0,
        hyperparameters=Hyperparameters.model_validate(asked | hyperparameters),
        resume=None,
    )
    (job / SPEC).write_text(spec.model_dump_json())
    return spec


@contextmanager
def contestants(threads: int, names: list[str]) -> Iterator[dict[str, Contestant]]:
    """All of them, ready to step."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spec = spec_in(folder, threads, 1_000)
        own = environment(spec) | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        commands = {
            "penstock": [sys.executable, "-m", "bench.training.penstock", str(spec.folder)],
            "plain loop": [str(PEERS), "-m", "bench.training.plain", str(ROWS), str(BLOCK), str(threads)],
            "padded lines": [str(PEERS), "-m", "bench.training.padded", str(ROWS * BLOCK), str(threads)],
        }
        found = {}
        for name in names:
            found[name] = Contestant(commands[name], own)
            stack.callback(found[name].close)
        yield found


def measure(entrants: dict[str, Contestant], rounds: int, steps: int) -> dict[str, list[Turn]]:
    """Every round each makes so many steps, the first of which is not counted."""
    found: dict[str, list[Turn]] = {name: [] for name in entrants}
    for number in range(rounds):
        for name, entrant in entrants.items():
            entrant.steps(1)
            found[name].append(entrant.steps(steps))
            print(
                f"round {number + 1}: {name} {_rate(found[name][-1]):,.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    return found


def saves(threads: int, count: int) -> list[float]:
    """Seconds of each checkpoint of a training of its own, from the last step to the rename."""
    with tempfile.TemporaryDirectory() as name:
        spec = spec_in(Path(name), threads, count, save_steps=1)
        os.mkfifo(spec.folder / FIFO)
        own = os.environ | {"PENSTOCK_PARENT": str(os.getpid()), "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen([sys.executable, "-m", "trainer.launch", str(spec.folder)], env=own)
        found, began = [], 0.0
        with (spec.folder / FIFO).open("rb") as said:
            for line in said:
                word, now = WORD.validate_json(line), time.perf_counter()
                if isinstance(word, Entered) and word.phase == "saving":
                    began = now
                elif isinstance(word, Saved):
                    found.append(now - began)
        assert child.wait() == 0
    return found


def overhead(turns: list[Turn], saved: list[float]) -> str:
    """What a training spends on other things than learning, as a share of its time."""
    beside = [turn.beside / turn.seconds for turn in turns]
    every = Spec.model_fields["save_seconds"].default
    share = statistics.median(beside) + statistics.median(saved) / every
    return (
        f"overhead {share:.2%} (goal 3 %): metrics and words {_spread(beside, '.2%')} of a step, a checkpoint"
        f" {_spread(saved, '.1f')} s every {every:.0f} s"
    )


def _rate(turn: Turn) -> float:
    return turn.tokens / turn.seconds


def report(found: dict[str, list[Turn]], threads: int) -> str:
    """A table: medians, least and most."""
    lines = [
        "| | real tokens/s | per core-second of the process | penstock over it | goal | |",
        "|---" * 6 + "|",
    ]
    for name, turns in found.items():
        rates, per_cpu = [_rate(turn) for turn in turns], [turn.tokens / turn.cpu_seconds for turn in turns]
        ratio = goal = met = ""
        if name in GOALS:
            ratios = [_rate(ours) / rate for ours, rate in zip(found["penstock"], rates, strict=True)]
            by_cpu = [
                ours.tokens / ours.cpu_seconds / rate
                for ours, rate in zip(found["penstock"], per_cpu, strict=True)
            ]
            ratio = f"{_spread(ratios, '.2f')}; by core-seconds {_spread(by_cpu, '.2f')}"
            goal, met = f"{GOALS[name]}", "met" if statistics.median(ratios) >= GOALS[name] else "missed"
        lines.append(
            f"| {name} | {_spread(rates, ',.0f')} | {_spread(per_cpu, ',.0f')} | {ratio} | {goal} | {met} |"
        )
    return "\n".join(lines)


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--saves", type=int, default=3, help="checkpoints that are timed")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", default=["penstock", "plain loop", "padded lines"])
    asked = parser.parse_args()
    began = time.monotonic()
    with contestants(asked.threads, asked.only) as entrants:
        found = measure(entrants, asked.rounds, asked.steps)
    print(report(found, asked.threads))
    if "penstock" in found and asked.saves:
        print(overhead(found["penstock"], saves(asked.threads, asked.saves)))
    print(f"{time.monotonic() - began:,.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
