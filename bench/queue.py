"""`make bench-queue`: jobs that do nothing, from submit to stored result, beside Celery and procrastinate.

One PostgreSQL and one Redis for all, with the settings of `make up` (fsync and synchronous_commit on). Each
contestant is a process with 64 callers and a process with a worker of 64 slots; they are asked in turn, round
after round, and stopped while another is asked. Time ends when every result is stored, as the server says.

stored   jobs/s: submitted by 64 callers who do not wait, until the last result is stored
waited   jobs/s: each of 64 callers waits for its result, reads it and submits the next
cpu      milliseconds of the processor for a job: of callers and worker, and of the servers
statements  of PostgreSQL for a job, counted in the drivers of callers and worker, BEGIN and COMMIT left out
"""

import argparse
import signal
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack

from bench.queueing.answers import CALLERS
from bench.queueing.contestants import Contestant, Round, Servers, celery, penstock, procrastinate, servers
from bench.report import machine, spread

GOAL, MOST_STATEMENTS = 2.0, 4.0


def measure(
    entrants: list[Contestant], found: Servers, rounds: int, jobs: int, wait: bool
) -> dict[str, list[Round]]:
    """Each in turn, round after round; a first round is not counted."""
    done: dict[str, list[Round]] = {entrant.name: [] for entrant in entrants}
    for number in range(rounds + 1):
        for entrant in entrants:
            made = entrant.round(found, jobs, wait)
            if number:
                done[entrant.name].append(made)
                print(
                    f"round {number}: {entrant.name} {jobs / made.stored:,.0f} jobs/s",
                    file=sys.stderr,
                    flush=True,
                )
    return done


def report(done: dict[str, list[Round]], ours: str = "Penstock") -> str:
    """A table: medians, least and most, and Penstock over each."""
    lines = [
        "| | jobs/s | accepted/s | CPU ms: callers | worker | servers | statements | Penstock over it |",
        "|---" * 8 + "|",
    ]
    for name, rounds in done.items():
        over = [theirs.stored / mine.stored for mine, theirs in zip(done[ours], rounds, strict=True)]
        cells = [
            spread([one.jobs / one.stored for one in rounds], "{:,.0f}"),
            spread([one.jobs / one.submitted for one in rounds], "{:,.0f}"),
            spread([1000 * one.callers_cpu / one.jobs for one in rounds], "{:.2f}"),
            spread([1000 * one.worker_cpu / one.jobs for one in rounds], "{:.2f}"),
            spread([1000 * one.server_cpu / one.jobs for one in rounds], "{:.2f}"),
            spread([one.statements / one.jobs for one in rounds], "{:.2f}") if rounds[0].statements else "",
            "" if name == ours else f"{spread(over, '{:.2f}')}, goal {GOAL:g}: {_verdict(over)}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(ratios: list[float]) -> str:
    return "met" if statistics.median(ratios) >= GOAL else "missed"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--pool", default="--pool solo", help="of Celery's worker")
    parser.add_argument("--only", nargs="*", default=["penstock", "celery", "procrastinate"])
    asked = parser.parse_args()
    with servers() as found, ExitStack() as stack:
        make: dict[str, Callable[[], list[Contestant]]] = {
            "penstock": lambda: [penstock(found, found.environment)],
            "celery": lambda: [celery(found, found.environment, asked.pool)],
            "procrastinate": lambda: procrastinate(found, found.environment),
        }
        entrants: list[Contestant] = []
        for name in asked.only:
            made = make[name]()
            for process in (made[0].callers, made[0].worker):
                stack.callback(process.close)
                process.send(signal.SIGSTOP)
            entrants += made
        print(machine(), f"{CALLERS} callers, {asked.jobs} jobs a round, {asked.rounds} rounds", sep="; ")
        print(report(measure(entrants, found, asked.rounds, asked.jobs, wait=False)))
        waiting = [one for one in entrants if one.name in ("Penstock", "Celery")]
        print(f"\nEach caller waits for its result (statements: goal at most {MOST_STATEMENTS:g}):\n")
        print(report(measure(waiting, found, asked.rounds, asked.jobs, wait=True)))


if __name__ == "__main__":
    main()
