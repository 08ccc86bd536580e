"""The only place that lays out what quantizing costs and gains: the table, as Markdown and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.quantize.evaluation import Report

COLUMNS = (
    "method", "path", "validation loss", "perplexity", "size, MB", "resident, MB",
    "tokens/s at 1", "tokens/s at 32",
)  # fmt: skip


@dataclass(frozen=True)
class Circumstances:
    """What the figures of a table hold for."""

    source: str  # the model, as it was named
    digest: str  # of the original
    text: str  # the name of the file that the loss is of
    text_sha256: str
    calibration: str | None  # the name of the file that scales were chosen for
    calibration_sha256: str | None
    processor: str
    cores: int
    device: str
    torch: str
    date: str  # UTC


def write_table(folder: Path, of: Circumstances, reports: Sequence[Report]) -> str:
    """Store the reports, the fp32 original's first, as quantization.json and .md; returns the Markdown."""
    page = markdown(of, reports)
    facts = asdict(of) | {"methods": [asdict(report) for report in reports]}
    (folder / "quantization.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (folder / "quantization.md").write_text(page, encoding="utf-8")
    return page


def markdown(of: Circumstances, reports: Sequence[Report]) -> str:
    """The page: the table, what it holds for, and each method's sample."""
    rows = [_cells(report, reports[0]) for report in reports]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows))
    calibrated = f"Scales calibrated on `{of.calibration}`. " if of.calibration else ""
    samples = "\n\n".join(f"## {report.method}\n\n{_fenced(report.sample)}" for report in reports)
    return f"""# {of.source}, quantized

{table}

Loss in nats per token over {reports[0].tokens:,} tokens of `{of.text}`. {calibrated}Sizes in 10^6 bytes:
of the safetensors, and of a whole process with one sequence. Speed: greedy, in the process, prompts included.
Changes are against fp32, on the path that serves it.
{of.processor}, {of.cores} cores, {of.device}, torch {of.torch}, {of.date}. Model {of.digest}.

{samples}
"""


def _cells(report: Report, original: Report) -> list[str]:
    def against(value: float, other: float) -> str:
        return f" ({value / other:.2f} x)" if report is not original else ""

    loss, size = report.validation_loss, report.disk_megabytes
    change = f" ({loss / original.validation_loss - 1:+.2%})" if report is not original else ""
    one, many = report.tokens_per_second_1, report.tokens_per_second_32
    return [
        report.method,
        report.path,
        f"{loss:.4f}{change}",
        f"{report.perplexity:.3f}",
        f"{size:.2f}" + against(original.disk_megabytes, size),
        f"{report.resident_megabytes:.0f}",
        f"{one:.1f}" + against(one, original.tokens_per_second_1),
        f"{many:.1f}" + against(many, original.tokens_per_second_32),
    ]


def _fenced(text: str) -> str:
    """As a block of code, whatever it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
