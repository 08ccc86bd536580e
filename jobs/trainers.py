"""What the trainers say of themselves: what they can do, and how fast. Nobody is told which job is whose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from jobs.finetune_input import Precision
from jobs.tables import trainers

SILENT_AFTER = timedelta(minutes=10)
"""A trainer that said nothing for so long is gone; it repeats itself every minute."""


@dataclass(frozen=True)
class Trainer:
    """One trainer's word about its host."""

    name: str
    device: str  # cpu or cuda
    precisions: Sequence[Precision]
    refused: Mapping[str, str]  # an adapter or a precision: why this host cannot
    calibration: Mapping[str, float]  # precision: floating-point operations per second, as measured
    memory: int  # bytes that a training may take


def report(connection: Connection, trainer: Trainer) -> None:
    """Say, or repeat, what a trainer can do."""
    values = {
        "name": trainer.name,
        "device": trainer.device,
        "precisions": list(trainer.precisions),
        "refused": dict(trainer.refused),
        "calibration": dict(trainer.calibration),
        "memory": trainer.memory,
        "seen_at": func.now(),
    }
    row = insert(trainers).values(**values)
    connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=values))


def withdraw_silent(connection: Connection) -> None:
    """Forget the trainers that are gone."""
    connection.execute(delete(trainers).where(trainers.c.seen_at < func.now() - SILENT_AFTER))


def seen(connection: Connection) -> list[Trainer]:
    """Those that are there, by name."""
    there = select(trainers).where(trainers.c.seen_at >= func.now() - SILENT_AFTER)
    rows = connection.execute(there.order_by(trainers.c.name)).all()
    return [Trainer(**{name: getattr(row, name) for name in Trainer.__dataclass_fields__}) for row in rows]


def refusal(connection: Connection, what: str) -> str | None:
    """Why no trainer can do an adapter or a precision; None: one can, or none has reported yet."""
    reasons = [trainer.refused.get(what) for trainer in seen(connection)]
    return reasons[0] if reasons and all(reason is not None for reason in reasons) else None


def precisions(connection: Connection) -> list[Precision]:
    """Those that some trainer can do."""
    return sorted({precision for trainer in seen(connection) for precision in trainer.precisions})


def fastest(connection: Connection, precision: str) -> float | None:
    """Floating-point operations per second of the fastest trainer; None: nobody measured that precision."""
    measured = [
        trainer.calibration[precision] for trainer in seen(connection) if precision in trainer.calibration
    ]
    return max(measured, default=None)
