"""Draws what bench/engine.py measured as an SVG: bars of tokens/s, readable on light and dark pages."""

import argparse
import json
import statistics
from html import escape
from pathlib import Path

from bench.contest import Rates
from bench.engine import FOLDER

TITLES = {
    "1": "1 stream",
    "8": "8 at once",
    "32": "32 at once",
    "mixed": "64 of mixed lengths",
    "sampled": "32 sampled",
}
_WIDTH, _LABEL, _BAR, _GAP = 800, 290, 18, 6
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.ours { fill: #0969da } .peer { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .ours { fill: #4493f8 } .peer { fill: #6e7681 }
}"""


def draw(rates: Rates) -> str:
    """One block of bars for each workload, each to its own scale, the fastest first."""
    parts: list[str] = []
    top = 0
    for workload, row in rates.items():
        block, height = _block(TITLES[workload], row)
        parts.append(f'<g transform="translate(0 {top})">{block}</g>')
        top += height
    size = f'width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}"'
    head = "<title>Tokens per second, all requests together</title>", f"<style>{_STYLE}</style>"
    opened = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([opened, *head, *parts, "</svg>\n"])


def _block(title: str, row: dict[str, list[float]]) -> tuple[str, int]:
    medians = {name: statistics.median(rounds) for name, rounds in row.items()}
    ordered = sorted(medians, key=lambda name: -medians[name])
    scale = (_WIDTH - _LABEL - 60) / medians[ordered[0]]
    lines = [f'<text class="title" x="0" y="16">{title}, tokens/s</text>']
    top = 26
    for name in ordered:
        rate = medians[name]
        kind = "ours" if name.startswith("Penstock") else "peer"
        width, middle = rate * scale, top + _BAR - 5
        lines.append(f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        lines.append(
            f'<rect class="{kind}" x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
        )
        lines.append(f'<text x="{_LABEL + width + 6:.1f}" y="{middle}">{rate:,.0f}</text>')
        top += _BAR + _GAP
    return "\n".join(lines), top + 14


def main() -> None:
    """Read the JSON of a run, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", type=Path, default=FOLDER / "engine.json")
    parser.add_argument("--out", type=Path, default=Path("docs/engine.svg"))
    asked = parser.parse_args()
    rates: Rates = json.loads(asked.measured.read_text())["rates"]
    asked.out.write_text(draw(rates))


if __name__ == "__main__":
    main()
