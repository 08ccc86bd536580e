"""Turns what was measured into Markdown: on which machine, a table of medians, ratios against the goals."""

import datetime
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

from bench.contest import Rates, best_of, ratios
from bench.peers.convert import PEERS
from stack import ROOT

_PACKAGES = ("openvino-genai", "ctranslate2", "llama-cpp-python")


def heading() -> str:
    """Date, commit, machine and versions, in one line."""
    today = datetime.datetime.now(datetime.UTC).date()
    return f"{today}, commit {_commit()}; {machine()}; {', '.join(versions())}"


def machine() -> str:
    """Cores, processor and memory."""
    found = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", found)
    family = re.search(r"cpu family\s*: (.*)", found)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = f"{name[1]} family {family[1]}" if name and family else platform.processor()
    vnni = "AVX512-VNNI" if "avx512_vnni" in found else "no AVX512-VNNI"
    return f"{os.cpu_count()} cores of {processor} ({vnni}), {memory:.0f} GiB"


def versions() -> list[str]:
    """Of torch and transformers here, and of the peers in their environment."""
    import torch
    import transformers

    peers = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    return [f"torch {torch.__version__}", f"transformers {transformers.__version__}", *peers]


def table(rates: Rates) -> str:
    """Tokens/s: the median of the rounds, with the least and the most in brackets."""
    contestants = list(dict.fromkeys(name for row in rates.values() for name in row))
    lines = [f"| tokens/s | {' | '.join(rates)} |", "|---" * (len(rates) + 1) + "|"]
    for name in contestants:
        cells = [spread(rates[workload].get(name), "{:,.0f}") for workload in rates]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison(rates: Rates, ours: str, theirs: list[str], goals: dict[str, float]) -> str:
    """`ours` over the best of `theirs`, workload by workload, beside what was aimed at."""
    lines = []
    for workload, goal in goals.items():
        row = rates.get(workload, {})
        others = [name for name in theirs if name in row]
        if ours in row and others:
            found = ratios(row, ours, others)
            verdict = "met" if statistics.median(found) >= goal else "missed"
            who = f"{workload}: {ours} over {best_of(row, others)}"
            lines.append(f"| {who} | {spread(found, '{:.2f}')} | {goal} | {verdict} |")
    return "\n".join(lines)


def spread(values: list[float] | None, form: str) -> str:
    """Median (least to most)."""
    if not values:
        return ""
    middle = form.format(statistics.median(values))
    return (
        middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"
    )


def _version(package: str) -> str | None:
    folders = (PEERS.parent / "lib").glob(f"python*/site-packages/{package.replace('-', '_')}-*.dist-info")
    return next((folder.name.removesuffix(".dist-info").split("-")[1] for folder in folders), None)


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
