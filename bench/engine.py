"""`make bench-engine`: Penstock's engine against its peers, in-process, everyone with the same threads.

1, 8, 32    so many prompts of 64 tokens at once, 128 new tokens each, greedy
mixed       64 requests at once, prompts and answers of 16 to 256 tokens, 32 slots, greedy
sampled     as 32, with temperature, top-k, top-p and a repetition penalty
speculation one stream with and without guesses, on text that wanders and on text that repeats itself
latency     time between the tokens of 8 running sequences while prompts of 900 tokens arrive
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import cuda, report
from bench.contest import Contestant, Rates, compete, started
from bench.peers import convert
from bench.shape import REPEATING, make
from bench.workloads import WORKLOADS, streams
from stack import ROOT

FOLDER = ROOT / "var" / "bench"
HERE = Path(sys.executable)
THERE = convert.PEERS / "python"
KERNEL, TORCH, Q4 = "Penstock int8", "Penstock int8, torch path", "llama.cpp q4_0"
INT8 = ["OpenVINO GenAI int8", "CTranslate2 int8", "llama.cpp q8_0"]
GOALS = {"1": 1.4, "8": 1.6, "32": 1.6, "mixed": 1.6, "sampled": 1.4}
_SLOTS = 32
_EXTRAS = ("speculation", "latency")


def penstock(model: Path, name: str = KERNEL, kernel: str = "must", **options: str) -> Contestant:
    """Penstock's engine, as the worker makes it."""
    return Contestant(name, "penstock", HERE, model, {"method": "int8", "kernel": kernel, **options})


def _openvino(model: Path) -> Contestant:
    # activations quantized in groups of 128 instead of its 32: 10 % faster
    options = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}
    return Contestant(INT8[0], "openvino", THERE, convert.openvino(model), options)


def _llama(model: Path, name: str, quantization: str) -> Contestant:
    # no more rows in one graph than this: 15 to 20 % faster with many requests
    return Contestant(name, "llama", THERE, convert.gguf(model, quantization), {"n_ubatch": "128"})


def _transformers(model: Path, name: str, **options: str) -> Contestant:
    return Contestant(f"transformers {name}", "transformers", HERE, model, options, once=True)


CONTESTANTS: dict[str, Callable[[Path], Contestant]] = {
    "penstock": penstock,
    "penstock-torch": lambda model: penstock(model, TORCH, kernel="torch"),
    "openvino": _openvino,
    "ctranslate2": lambda model: Contestant(INT8[1], "ctranslate2", THERE, convert.ctranslate2(model)),
    "q8_0": lambda model: _llama(model, INT8[2], "q8_0"),
    "q4_0": lambda model: _llama(model, Q4, "q4_0"),
    "generate": lambda model: _transformers(model, "generate bf16"),
    "generate-fp32": lambda model: _transformers(model, "generate fp32", dtype="float32"),
    "continuous": lambda model: _transformers(model, "continuous batching bf16", way="continuous"),
}


def speculation(rounds: int, threads: int) -> dict[str, Rates]:
    """One stream with and without, by kind of text."""
    folders = {
        "text that wanders": make("124M", FOLDER / "124M"),
        "text that repeats": make("124M", FOLDER / "124M-repeating", REPEATING),
    }
    found = {}
    for text, model in folders.items():
        both = [penstock(model, f"speculation {way}", speculate=way) for way in ("yes", "no")]
        with started(both, threads, _SLOTS) as entrants:
            found[text] = compete(entrants, {"1": streams(1)}, rounds)
    return found


def latency(model: Path, threads: int) -> dict[str, float]:
    """Milliseconds between tokens."""
    command = [sys.executable, "-m", "bench.latency", str(model), f"--threads={threads}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for, as it is kept in the JSON file."""
    model = make("124M", FOLDER / "124M")
    found: dict[str, Any] = {"heading": report.heading(), "threads": asked.threads, "rounds": asked.rounds}
    workloads = {name: job for name, job in WORKLOADS.items() if name in asked.workloads}
    if workloads:
        contestants = [CONTESTANTS[name](model) for name in asked.only]
        with started(contestants, asked.threads, _SLOTS) as entrants:
            found["rates"] = compete(entrants, workloads, asked.rounds)
    if "speculation" in asked.workloads:
        found["speculation"] = speculation(asked.rounds, asked.threads)
    if "latency" in asked.workloads:
        found["latency"] = [latency(model, asked.threads) for _ in range(asked.rounds)]
    return found


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as RESULTS.md shows it."""
    parts = [f"{found['heading']}; {found['threads']} threads for everyone, {found['rounds']} rounds."]
    if rates := found.get("rates"):
        goals = [
            report.comparison(rates, KERNEL, INT8, GOALS),
            report.comparison(rates, KERNEL, [Q4], {"1": 1.0}),
            report.comparison(rates, TORCH, INT8, {"32": 1.0, "mixed": 1.0}),
        ]
        head = "| ratio to the best peer | measured | goal | |\n|---|---|---|---|"
        parts += [report.table(rates), "\n".join([head, *filter(None, goals)])]
    for text, rates in found.get("speculation", {}).items():
        parts.append(f"One stream, {text}:\n\n{report.table(rates)}")
    if rounds := found.get("latency"):
        parts.append(_latency_table(rounds))
    return "\n\n".join(parts) + "\n"


def _latency_table(rounds: list[dict[str, float]]) -> str:
    lines = ["| ms between tokens of 8 running sequences | |", "|---|---|"]
    lines += [f"| {name} | {report.spread([row[name] for row in rounds], '{:.1f}')} |" for name in rounds[0]]
    shares = [row["p99"] / row["median"] for row in rounds]
    return "\n".join([*lines, f"| p99 over median (goal: at most 2) | {report.spread(shares, '{:.2f}')} |"])


def main() -> None:
    """Measure, print Markdown, keep JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everyone = list(CONTESTANTS)
    parser.add_argument("--only", nargs="+", choices=everyone, default=everyone, help="contestants")
    known = [*WORKLOADS, *_EXTRAS]
    parser.add_argument("--workloads", nargs="+", choices=known, default=known)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=FOLDER / "engine.json")
    asked = parser.parse_args()
    found = cuda.measure(asked.rounds, FOLDER) if asked.device == "cuda" else measure(asked)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1))
    print(cuda.markdown(found) if asked.device == "cuda" else markdown(found))


if __name__ == "__main__":
    main()
