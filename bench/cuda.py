"""Penstock on a GPU in bf16 against transformers' continuous batching and against reading the weights."""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench import report
from bench.contest import Contestant, compete, started
from bench.shape import SHAPES, make
from bench.workloads import CUDA_WORKLOADS

OURS, THEIRS = "Penstock bf16", "transformers continuous batching bf16"
GOAL = 3.0
_SLOTS = 256
# the widest recorded pass has room for so many rows of prompts; to a worker, TOKEN_BUDGET says it
_OPTIONS = {"method": "bf16", "device": "cuda", "kernel": "auto", "rows": str(_SLOTS + 1024)}
_BYTES = 2**30  # of the tensors that the bandwidth is measured on


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Tokens/s of both, by shape; the floor's is what a step that only read the weights would give."""
    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; leave --device cuda out.")
    rate = bandwidth()
    found: dict[str, Any] = {"heading": report.heading(), "rounds": rounds, "bandwidth": rate, "shapes": {}}
    found["device"] = torch.cuda.get_device_name()
    for shape in SHAPES:
        model = make(shape, folder / shape)
        contestants = [
            Contestant(OURS, "penstock", Path(sys.executable), model, _OPTIONS),
            Contestant(
                THEIRS, "transformers", Path(sys.executable), model, {"way": "continuous", "device": "cuda"}
            ),
        ]
        with started(contestants, threads=2, slots=_SLOTS) as entrants:
            rates = compete(entrants, CUDA_WORKLOADS, rounds)
        # a folder's weights are fp32: twice the bytes of bf16
        seconds = (model / "model.safetensors").stat().st_size / 2 / rate
        for name, job in CUDA_WORKLOADS.items():
            rates[name]["floor: weights read once a step"] = [len(job.prompts) / seconds]
        found["shapes"][shape] = rates
    return found


def bandwidth() -> float:
    """Bytes per second that the device reads and writes when it copies; the best of ten."""
    source = torch.empty(_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * _BYTES / best


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as RESULTS.md shows it."""
    device = f"{found['device']}, {found['bandwidth'] / 1e9:,.0f} GB/s"
    parts = [f"{device}; {found['heading']}; {found['rounds']} rounds."]
    for shape, rates in found["shapes"].items():
        goals = report.comparison(rates, OURS, [THEIRS], dict.fromkeys(rates, GOAL))
        head = "| ratio | measured | goal | |\n|---|---|---|---|"
        parts += [f"GPT-2 {shape}:", report.table(rates), f"{head}\n{goals}"]
    return "\n\n".join(parts) + "\n"
