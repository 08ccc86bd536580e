"""The table and the picture of how the losses went."""

import csv
from pathlib import Path

import matplotlib as mpl

from trainer.history import Row
from trainer.spec import CURVE, TABLE

mpl.use("Agg")
from matplotlib.figure import Figure

HEADER = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]


def write_table(rows: list[Row], folder: Path) -> None:
    """metrics.csv: a line for each step that was measured."""
    aside = folder / f"{TABLE}.part"
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    aside.rename(folder / TABLE)


def draw(rows: list[Row], folder: Path) -> None:
    """loss.png."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)")
    for name, label, style in (("train_loss", "training", "-"), ("valid_loss", "validation", "o-")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(folder / CURVE, dpi=120)
