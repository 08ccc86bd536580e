"""Which models there are: a name, its version, and the workers that offer it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Row, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs.tables import jobs, model_versions, offers

SILENT_AFTER = timedelta(minutes=10)
"""An offer that no worker repeated for this long is withdrawn; a restart is shorter."""


FINE_TUNED = "ft:"
"""How the name of a fine-tuned model begins, and no other."""

LOADING = "It is being loaded."
"""The reason of an offer that its worker has not decided yet."""


@dataclass(frozen=True)
class ModelVersion:
    """What web must know of a model to take jobs for it."""

    name: str
    digest: str
    quantization: str
    parameters: int
    context: int
    vocab_size: int
    eos_token_id: int
    tokenizer: str  # artifact
    chat_template: str | None
    slots: int  # sequences in one batch; of several workers, the fewest: any of them may get the job


@dataclass(frozen=True)
class Offer:
    """A name, and either its version or why the worker cannot offer it."""

    name: str
    version: ModelVersion | None
    reason: str | None
    since: datetime
    owner_id: int | None = None  # of a fine-tuned model, which nobody else may see

    def seen_by(self, owner_id: int) -> bool:
        """Whether an owner may know of it."""
        return self.owner_id in (None, owner_id)

    @property
    def status(self) -> str:
        """available, loading, or unavailable."""
        if self.version is not None:
            return "available"
        return "loading" if self.reason == LOADING else "unavailable"


def offer(
    connection: Connection,
    worker: str,
    versions: Sequence[ModelVersion],
    failed: dict[str, str],
    loading: Collection[str] = (),
) -> None:
    """Say what this worker has, and what it has not and why; replaces what it offered before.

    A name that is `loading` keeps its offer from before a restart: its jobs wait, and are not refused.
    A worker repeats this well within `SILENT_AFTER`. A fine-tuned model that its owner has deleted is passed
    over, or it would come back as everybody's.
    """
    deleted = _deleted(connection, [*(v.name for v in versions), *failed, *loading])
    mine = offers.c.worker == worker
    connection.execute(delete(offers).where(mine, offers.c.name.not_in(loading)))
    connection.execute(update(offers).where(mine).values(seen_at=func.now()))
    rows = [
        {"name": v.name, "version_id": _register(connection, v), "reason": None, "slots": v.slots}
        for v in sorted(versions, key=lambda version: version.name)  # two workers lock them in one order
        if v.name not in deleted
    ]
    without = failed | dict.fromkeys(loading, LOADING)
    rows += [
        {"name": n, "version_id": None, "reason": reason, "slots": None}
        for n, reason in without.items()
        if n not in deleted
    ]
    for row in rows:
        connection.execute(insert(offers).values(worker=worker, **row).on_conflict_do_nothing())


def withdraw(connection: Connection, worker: str) -> None:
    """Take back everything a worker offered, before it starts anew."""
    connection.execute(delete(offers).where(offers.c.worker == worker))


def forget_silent_workers(connection: Connection) -> None:
    """Withdraw the offers of workers that have been gone for long."""
    connection.execute(delete(offers).where(offers.c.seen_at < func.now() - SILENT_AFTER))


def listing(connection: Connection) -> dict[str, Offer]:
    """Every name somebody offers or failed to get; an offer counts before a failure, the newest first."""
    fewest = func.min(offers.c.slots).over(partition_by=offers.c.name).label("slots")
    version = model_versions.alias()  # any of that name: one that cannot be had has an owner, too
    owner = select(version.c.owner_id).where(version.c.name == offers.c.name, version.c.owner_id.is_not(None))
    owned_by = owner.limit(1).scalar_subquery().label("owned_by")
    rows = connection.execute(
        select(offers.c.name, offers.c.reason, offers.c.seen_at, fewest, owned_by, *model_versions.c)
        .outerjoin(model_versions, model_versions.c.id == offers.c.version_id)
        .order_by(offers.c.name, offers.c.version_id.desc().nulls_last(), offers.c.reason != LOADING)
    )
    found: dict[str, Offer] = {}
    for row in rows:
        found.setdefault(row[0], _offer(row))
    return found


def tokenizer(connection: Connection, name: str, digest: str) -> str | None:
    """The artifact with the tokenizer of a version, offered or not."""
    mine = (model_versions.c.name == name, model_versions.c.digest == digest)
    found: str | None = connection.execute(select(model_versions.c.tokenizer).where(*mine).limit(1)).scalar()
    return found


def last_tokenizer(connection: Connection, name: str) -> str | None:
    """The artifact with the tokenizer of the newest version of a name, offered or not."""
    newest = select(model_versions.c.tokenizer).where(model_versions.c.name == name)
    found: str | None = connection.execute(newest.order_by(model_versions.c.id.desc()).limit(1)).scalar()
    return found


def is_fine_tuned(connection: Connection, owner_id: int, name: str) -> bool:
    """Whether an owner's fine-tune made the model of that name."""
    return (
        connection.execute(select(model_versions.c.id).where(*_owned(owner_id, name)).limit(1)).first()
        is not None
    )


def needed_by(connection: Connection, name: str) -> str | None:
    """The id of a job that has not ended and needs the model; None if there is none."""
    for alive in ("'queued'", "'running'"):  # literals: each has an index, which a bound value would hide
        mine = select(jobs.c.id).where(jobs.c.model == name, jobs.c.state == literal_column(alive)).limit(1)
        if (found := connection.execute(mine).scalar()) is not None:
            return str(found)
    return None


def remove(connection: Connection, owner_id: int, name: str) -> list[str]:
    """Delete a fine-tuned model, which nobody offers any more; return the artifacts that it leaves."""
    gone = delete(model_versions).where(*_owned(owner_id, name)).returning(model_versions.c.tokenizer)
    return list(connection.execute(gone).scalars())


def _deleted(connection: Connection, names: Iterable[str]) -> set[str]:
    """Those of these names that are of fine-tuned models which nobody owns any more."""
    fine_tuned = {name for name in names if name.startswith(FINE_TUNED)}
    if not fine_tuned:
        return set()
    owned = model_versions.c.owner_id.is_not(None)
    # locked: its deletion waits, and takes the offer with it
    there = select(model_versions.c.name).where(model_versions.c.name.in_(fine_tuned), owned)
    return fine_tuned - set(connection.execute(there.with_for_update(key_share=True, read=True)).scalars())


def _owned(owner_id: int, name: str) -> tuple[ColumnElement[bool], ...]:
    c = model_versions.c
    return c.name == name, c.owner_id == owner_id, c.job_id.is_not(None)


def _offer(row: Row) -> Offer:  # type: ignore[type-arg]
    if row.reason is not None:
        return Offer(row[0], None, row.reason, row.seen_at, row.owned_by)
    version = ModelVersion(
        name=row[0],
        digest=row.digest,
        quantization=row.quantization,
        parameters=row.parameters,
        context=row.context,
        vocab_size=row.vocab_size,
        eos_token_id=row.eos_token_id,
        tokenizer=row.tokenizer,
        chat_template=row.chat_template,
        slots=row.slots or 1,  # a worker from before this column has not said
    )
    return Offer(row[0], version, None, row.created_at, row.owned_by)


def _register(connection: Connection, version: ModelVersion) -> int:
    """The id of this version's row, made if there is none yet."""
    values = {
        column.name: getattr(version, column.name)
        for column in model_versions.c
        if hasattr(version, column.name)  # so not its owner: whoever offers it does not own it
    }
    kept = insert(model_versions).values(**values)
    key = ["name", "digest", "quantization"]
    changed = {name: kept.excluded[name] for name in values if name not in key}
    made: int = connection.execute(
        kept.on_conflict_do_update(index_elements=key, set_=changed).returning(model_versions.c.id)
    ).scalar_one()
    return made
