"""transformers.Trainer as notebooks use it: a line of text a row, cut or padded to 128 tokens.

Lines are as long as WikiText's: log-normal (4.17, 0.96) tokens, of which cutting at 128 leaves 70 %, and
which fill 56 % of the positions. No dropout, though most leave GPT-2's 0.1 in: it makes Trainer slower.
"""

import random
import sys
import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from bench.training.turns import Turns

LINE, PADDING = 128, 50256
MEAN, DEVIATION = 4.17, 0.96  # of the logarithm of a line's tokens


class Lines(Dataset[dict[str, torch.Tensor]]):
    """Lines of random tokens, cut and padded."""

    def __init__(self, count: int = 4000) -> None:
        draw = random.Random(0)
        self.lengths = [min(LINE, max(2, round(draw.lognormvariate(MEAN, DEVIATION)))) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        length = self.lengths[index]
        mask = (torch.arange(LINE) < length).long()
        tokens = torch.where(mask.bool(), torch.randint(PADDING, (LINE,)), PADDING)
        labels = torch.where(mask.bool(), tokens, -100)
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


class Metered(Trainer):
    """Counts the real tokens of each step."""

    real = 0

    def training_step(self, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        self.real += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args)


class Waiting(TrainerCallback):
    """Steps when the bench says so."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.trainer: Metered

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.turns.before_step()
        self.trainer.real = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.turns.after_step(self.trainer.real)


def main(positions: int) -> None:
    """Train for ever."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=positions // LINE,
            max_steps=100_000,
            learning_rate=5e-5,
            bf16=True,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        waiting = Waiting()
        waiting.trainer = Metered(model, arguments, train_dataset=Lines(), callbacks=[waiting])
        waiting.trainer.train()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    main(int(sys.argv[1]))
