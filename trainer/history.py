"""What of a training is worth remembering beside its weights; kept in every checkpoint."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

FILE = "penstock.json"

Row = dict[str, float | int | None]


@dataclass
class History:
    """So far, on all processes together."""

    chosen: dict[str, Any]  # the plan's hyperparameters, which a resumed training keeps
    total_steps: int
    steps_per_epoch: int
    config: str  # hashes; other ones after a resume are worth a warning
    data: str
    processes: int
    versions: dict[str, str]
    step: int = 0
    trained_tokens: int = 0
    rows: list[Row] = field(default_factory=list)  # one a logged step
    best_loss: float | None = None  # of all evaluations
    without_gain: int = 0  # evaluations since
    best_step: int | None = None  # of the checkpoints with an evaluation of their step
    best_saved: float | None = None  # its loss
    owes_evaluation: bool = False  # it was stopped before its step was evaluated
    finished: bool = False

    def note(self, step: int, **facts: float | int | None) -> Row:
        """Add to what is known of a step, the newest."""
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update(facts)
        return self.rows[-1]

    def at(self, step: int) -> Row:
        """What is known of a step."""
        return next((row for row in reversed(self.rows) if row["step"] == step), {"step": step})

    def judge(self, loss: float) -> bool:
        """Note an evaluation; return whether none was better."""
        gained = self.best_loss is None or loss < self.best_loss
        self.best_loss = loss if gained else self.best_loss
        self.without_gain = 0 if gained else self.without_gain + 1
        return gained

    def judge_saved(self, step: int) -> bool:
        """Note that a step is saved; return whether it is the best of those, by its validation loss."""
        loss = self.at(step).get("valid_loss")
        if loss is None or (self.best_saved is not None and loss >= self.best_saved):
            return False
        self.best_step, self.best_saved = step, loss
        return True

    def write(self, folder: Path) -> None:
        """Into a checkpoint that is being made."""
        (folder / FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From a checkpoint."""
        return cls(**json.loads((folder / FILE).read_bytes()))
