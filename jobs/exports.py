"""What an export of a model has beside a job: what was asked for, and which one is the newest."""

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, select

from jobs import records
from jobs.records import JobRecord
from jobs.tables import jobs

KIND = "model.export"

HUB = "hub"
"""What a trainer without a token refuses (see `trainers.refusal`)."""


class ExportInput(BaseModel):
    """What whoever exports a model must know beside its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    push_to_hub: str | None = None  # user/name of a model repository of the Hub
    space: str | None = None  # user/name of a Space
    private: bool = True  # those of them that are made

    @property
    def is_pushed(self) -> bool:
        """Whether anything leaves this house."""
        return self.push_to_hub is not None or self.space is not None


def newest(connection: Connection, owner_id: int, model: str) -> JobRecord | None:
    """The last export of a model that this owner asked for."""
    found, _ = records.page(connection, owner_id, KIND, None, 1, where=[jobs.c.model == model])
    return found[0] if found else None


def owner_of(connection: Connection, job_id: str) -> int:
    """Whose job it is that was claimed."""
    return int(connection.execute(select(jobs.c.owner_id).where(jobs.c.id == job_id)).scalar_one())
