"""Where the time of one pass goes: each part of the kernels' step against the least it could take here."""

import argparse
import time
from pathlib import Path

import torch

from bench.peers.penstock import build
from bench.shape import make
from worker import checkpoint
from worker.kernels.floors import dot_rate, floors, read_bandwidth
from worker.kernels.model import KernelGPT2
from worker.model import Architecture
from worker.rows import Rows

LENGTH = 128  # positions before each row
REPEATS = 50


def table(model: KernelGPT2, architecture: Architecture, rows: int, bandwidth: float, rate: float) -> str:
    """Milliseconds of each part of a pass of `rows` next tokens, its floor, and how much of it is reached."""
    some = list(range(rows))
    batch = Rows(tokens=some, slots=some, positions=[LENGTH - 1] * rows, decodes=rows, wanted=some)
    for slot in some:  # fills what the rows look back at
        filling = Rows()
        filling.add_chunk(slot, 0, list(range(LENGTH - 1)))
        model.best(filling)
    model.best(batch)
    began = time.perf_counter()
    spent = model.profile(lambda: [model.best(batch) for _ in range(REPEATS)])
    whole = (time.perf_counter() - began) / REPEATS
    least = floors(architecture, rows, LENGTH, bandwidth, rate)
    lines = [f"\n| {rows} rows | ms | floor | of the floor's speed |", "|---|---|---|---|"]
    for part, seconds in spent.items():
        floor = least.get(part)
        shown = f"{floor * 1e3:.2f} | {floor / (seconds / REPEATS):.0%}" if floor else " | "
        lines.append(f"| {part} | {seconds / REPEATS * 1e3:.2f} | {shown} |")
    total = sum(least.values())
    lines.append(f"| whole pass | {whole * 1e3:.2f} | {total * 1e3:.2f} | {total / whole:.0%} |")
    return "\n".join(lines)


def main() -> None:
    """Print the machine's rates, and a table for 1, 8 and 32 rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=None, help="a GPT-2 folder; 124M random weights if absent"
    )
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    folder = asked.model or make("124M", Path("var/bench/124M"))
    torch.set_num_threads(1)
    engine = build(folder, 32, asked.threads, kernel="must")
    model = engine.model
    assert isinstance(model, KernelGPT2)
    bandwidth, rate = read_bandwidth(asked.threads), dot_rate(asked.threads)
    print(f"{asked.threads} threads read {bandwidth / 1e9:.1f} GB/s and do {rate / 1e9:,.0f} int8 GOP/s")
    architecture = checkpoint.read_architecture(checkpoint.read_json(folder / "config.json"))
    for rows in (1, 8, 32):
        print(table(model, architecture, rows, bandwidth, rate))


if __name__ == "__main__":
    main()
