"""What the processes of an export are told and what they answer: files that their parent writes and reads."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

ORDER, ANSWER = "order.json", "answer.json"
MODEL = "model"  # what comes out, laid out as a repository of the Hub
SPACE = "space"  # in it, laid out as a Space


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataFile(_Part):
    """A file that a model was trained on or judged by."""

    role: str
    filename: str | None  # as it was uploaded; None: its owner has deleted it
    sha256: str


class Order(_Part):
    """One export. Paths are absolute; `folder` is the export's own."""

    folder: Path
    name: str  # of the model here
    base: Path  # a whole model in Hugging Face layout
    adapter: Path | None  # a PEFT adapter to merge into it
    card: Path | None  # the README of the model at the bottom, which may name a licence
    base_model: str | None  # what it descends from, as the Hub or MODELS names it
    lineage: dict[str, Any] | None  # None: it was not trained here
    data: tuple[DataFile, ...] = ()
    push_to_hub: str | None = None
    space: str | None = None
    private: bool = True

    @property
    def model(self) -> Path:
        """The folder that comes out."""
        return self.folder / MODEL

    @property
    def title(self) -> str:
        """What the card and the Space are headed with."""
        return self.push_to_hub.partition("/")[2] if self.push_to_hub else self.name

    @property
    def loads_from_hub(self) -> bool:
        """Whether the Space finds the model on the Hub; one that is private needs a token, so it does not."""
        return self.push_to_hub is not None and not self.private

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The order in an export's folder."""
        return cls.model_validate_json((folder / ORDER).read_bytes())

    def write(self) -> None:
        """Put it into its folder."""
        (self.folder / ORDER).write_text(self.model_dump_json(indent=2))


class Answer(_Part):
    """How a process ended that could say so; without a code it has done what it was to do."""

    code: str | None = None  # of a class in jobs.errors
    message: str = ""
    hub: str | None = None  # where the model was pushed to
    space: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The answer in an export's folder, if there is one."""
        path = folder / ANSWER
        return cls.model_validate_json(path.read_bytes()) if path.exists() else None

    def write(self, folder: Path) -> None:
        """Put it into an export's folder."""
        (folder / ANSWER).write_text(self.model_dump_json())
