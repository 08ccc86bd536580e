"""`python -m tests.faults.chaos`: faults at random under load, and a table of what came of them."""

import argparse
import json
import secrets
import sys
from dataclasses import asdict
from pathlib import Path

from tests.faults.chaos import matrix, oracle, report, soak
from tests.faults.chaos.run import Asked, chaos, kills, soaked


def main() -> int:
    """Run and print; the exit status is 1 when anything was lost, doubled, poisoned or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rate", type=float, default=8, help="creates per second")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--pause", type=float, default=1, help="seconds after each recovery")
    parser.add_argument("--only", nargs="+", help="faults whose name begins so")
    parser.add_argument("--json", type=Path, help="keep the report there")
    parser.add_argument("--add", type=Path, nargs="+", help="run nothing: one table of these reports")
    parser.add_argument(
        "--kills-only", action="store_true", help="deaths one after the other, no other faults"
    )
    parser.add_argument("--every", type=float, default=1, help="seconds between the deaths of --kills-only")
    parser.add_argument(
        "--soak", action="store_true", help="a fault a minute at 70 %% of what the stack bears"
    )
    parser.add_argument("--trainer", action="store_true", help="fine-tunes too, whose trainer is killed")
    parser.add_argument("--keep", type=Path, help="logs and ledger go into this folder in the end")
    asked = parser.parse_args()
    if asked.add:
        print(report.as_markdown(report.add([report.read(path) for path in asked.add])))
        return 0
    rows = [row for row in matrix.ROWS if not asked.only or row.fault.startswith(tuple(asked.only))]
    if asked.trainer:
        rows += matrix.TRAINER_ROWS
    print(f"seed {asked.seed}", flush=True)
    if asked.soak:
        return _soak(Asked(asked.minutes, asked.rate, asked.seed, kept=asked.keep), asked.json)
    run = Asked(asked.minutes, asked.rate, asked.seed, trainer=asked.trainer, kept=asked.keep)
    made, verdict = kills(run, asked.every) if asked.kills_only else chaos(run, rows, asked.pause)
    print("", oracle.as_text(verdict), report.as_markdown(made), sep="\n")
    if asked.json:
        report.write(made, asked.json)
    return 0 if made.clean else 1


def _soak(run: Asked, kept: Path | None) -> int:
    made, verdict, slopes = soaked(run)
    table = soak.as_markdown(slopes)
    print("", oracle.as_text(verdict), report.as_markdown(made), "", table, sep="\n")
    if kept:
        report.write(made, kept)
        kept.with_suffix(".slopes.json").write_text(json.dumps([asdict(slope) for slope in slopes], indent=1))
    return 0 if made.clean else 1


if __name__ == "__main__":
    sys.exit(main())
