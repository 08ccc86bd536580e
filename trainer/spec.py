"""What the child of a training is told: a file that its parent writes and each of its processes reads."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from jobs.finetune_input import Adapter, Architecture, Hyperparameters

SPEC = "spec.json"
STOP = "stop"  # a file; once it is there, the child saves a checkpoint and ends
RESULT = "result"  # the folder of the model that comes out
TABLE, CURVE = "metrics.csv", "loss.png"  # beside it
CHECKPOINT = "checkpoint-"  # and the step: the folder of a checkpoint, whole and renamed into place
ASIDE = "tmp-"  # and the attempt: what is being written


class Data(BaseModel):
    """A file of examples that was validated already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    filename: str  # as it was uploaded: its ending helps to tell plain text from JSON
    sha256: str


class Spec(BaseModel):
    """One attempt at a fine-tune. Paths are absolute; `folder` is the job's own, kept between attempts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    attempt: int
    device: Literal["cpu", "cuda"]
    threads: int  # of each process on a CPU; 0: torch decides
    model: Path | None  # the base model in Hugging Face layout; None: from scratch, without its tokenizer
    base_adapter: Path | None = None  # a PEFT adapter to merge into it first
    base_name: str  # as an adapter's configuration names the model under it
    init: Literal["pretrained", "scratch"]
    architecture: Architecture | None
    tokenizer: (
        Path | None
    )  # a folder with tokenizer.json to start from scratch with; None: trained on the file
    adapter: Adapter
    training: Data
    validation: Data | None
    seed: int
    hyperparameters: Hyperparameters
    resume: Path | None  # a checkpoint whose manifest was verified
    save_seconds: float = 300.0  # between two checkpoints where save_steps is auto

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The specification in a job's folder."""
        return cls.model_validate_json((folder / SPEC).read_bytes())
