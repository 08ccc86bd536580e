"""How the starter's weights move: Muon for the matrices in the layers, AdamW for the rest, one schedule."""

from dataclasses import dataclass

import torch
from transformers import GPT2LMHeadModel

MATRIX_RATE = 0.006
OTHER_RATE = 0.010
WARM_UP = 100  # steps


def make(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """The optimizers of this model, each remembering its peak rate as `peak`."""
    matrices = [parameter for parameter in model.transformer.h.parameters() if parameter.ndim == 2]
    inside = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": MATRIX_RATE}],
        lr=MATRIX_RATE,
        weight_decay=0.05,
        # One rate for wide and tall matrices alike: GPT-2 stores its weights transposed.
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [{"params": others, "peak": OTHER_RATE}],
        lr=OTHER_RATE,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    return [muon, adamw]


@dataclass(frozen=True)
class Schedule:
    """Warm up by steps, hold, then fall to zero over the last `decay` seconds before `end`.

    Time is the measure because a shared machine cannot promise a number of steps by a given hour. Both are
    seconds on the caller's clock; without decay the rate holds to the end, for a run that another resumes.
    """

    end: float
    decay: float

    def factor(self, step: int, now: float) -> float:
        """The share of the peak rate, from 0 to 1, that is due at this step and time."""
        warm = min(1.0, (step + 1) / WARM_UP)
        left = min(1.0, max(0.0, self.end - now) / self.decay) if self.decay else 1.0
        return warm * left


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Let every group learn at this share of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
