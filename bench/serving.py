"""`make bench-serving`: the whole stack over HTTP, its clients on the same cores, against engines in-process.

1     one client, request after request: prompts of 64 tokens, 128 new tokens, greedy
32    32 clients, 64 requests of the same kind
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from bench import report
from bench.contest import Rates, compete, started
from bench.engine import CONTESTANTS, FOLDER, INT8, KERNEL
from bench.peers.job import Job
from bench.shape import make
from bench.stack import Bench, running
from bench.workloads import VOCABULARY, streams

WORKLOADS = {"1": streams(1), "32": streams(64)}
OURS = "Penstock int8 over HTTP"
_SLOTS = 32


class Served:
    """The stack as one who can be asked."""

    name = OURS
    once = False

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._asked = 0

    def rate(self, job: Job) -> float:
        """Send each request of a job; returns tokens per second in total."""
        clients = min(_SLOTS, len(job.prompts))
        self._asked += 1  # other prompts each time: what the slots still hold must not spare it their pass
        prompts = [[(token + self._asked) % VOCABULARY for token in prompt] for prompt in job.prompts]
        measured = self._bench.completions(prompts, job.lengths[0], clients)
        if measured.tokens != sum(job.lengths):
            raise RuntimeError(f"{measured.tokens} tokens came back, not {sum(job.lengths)}")
        return measured.tokens / measured.seconds


def measure(rounds: int, threads: int, served_threads: int, only: list[str]) -> dict[str, Any]:
    """Interleaved: over HTTP, the same engine in-process, the peers in-process."""
    model = make("124M", FOLDER / "124M")
    contestants = [CONTESTANTS[name](model) for name in only]
    with (
        running(f"{model}@int8", TORCH_THREADS=str(served_threads), SLOTS=str(_SLOTS)) as bench,
        started(contestants, threads, _SLOTS) as entrants,
    ):
        rates = compete([Served(bench), *entrants], WORKLOADS, rounds)
    facts = {"threads": threads, "served_threads": served_threads, "rounds": rounds}
    return {"heading": report.heading(), **facts, "rates": rates}


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as RESULTS.md shows it."""
    rates: Rates = found["rates"]
    served = found["served_threads"] or "as it comes"
    said = (
        f"{found['heading']}; in-process {found['threads']} threads, TORCH_THREADS {served} over HTTP,"
        f" {found['rounds']} rounds."
    )
    goals = [
        report.comparison(rates, OURS, [KERNEL], {"32": 0.85}),
        report.comparison(rates, OURS, INT8, {"1": 1.2, "32": 1.4}),
    ]
    head = "| ratio | measured | goal | |\n|---|---|---|---|"
    return "\n\n".join([said, report.table(rates), "\n".join([head, *filter(None, goals)])]) + "\n"


def main() -> None:
    """Measure, print Markdown, keep JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = os.cpu_count() or 1
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=["penstock", "openvino"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores, help="of those in-process")
    parser.add_argument("--served-threads", type=int, default=0, help="TORCH_THREADS of the stack")
    parser.add_argument("--out", type=Path, default=FOLDER / "serving.json")
    asked = parser.parse_args()
    found = measure(asked.rounds, asked.threads, asked.served_threads, asked.only)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1))
    print(markdown(found))


if __name__ == "__main__":
    main()
