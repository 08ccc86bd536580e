"""Which models there are: a name, its version, and the workers that offer it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    func,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from jobs.tables import jobs, model_versions, offers

SILENT_AFTER = timedelta(minutes=10)
"""An offer that no worker repeated for this long is withdrawn; a restart is shorter."""


FINE_TUNED = "ft:"
"""How the name of a fine-tuned model begins, and no other."""

_Said = tuple[int | None, str | None, int | None]  # a row of offers: the version's id, or a reason; slots

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
    failed: Mapping[str, str],
    loading: Collection[str] = (),
) -> None:
    """Say what this worker has, and what it has not and why; replaces what it offered before.

    A name that is `loading` keeps its offer from before a restart: its jobs wait, and are not refused.
    A worker repeats this well within `SILENT_AFTER`; what has not changed is not written again. A fine-tuned
    model that its owner has deleted is passed over, or it would come back as everybody's.
    """
    mine = offers.c.worker == worker
    said = select(offers.c.name, offers.c.version_id, offers.c.reason, offers.c.slots).where(mine)
    before = {name: tuple(rest) for name, *rest in connection.execute(said)}
    kept = before.keys() & set(loading)
    known = _registered(connection, versions)
    wanted: dict[str, _Said] = {v.name: (known.get(v), None, v.slots) for v in versions}
    wanted |= {name: (None, reason, None) for name, reason in failed.items()}
    wanted |= {name: (None, LOADING, None) for name in loading if name not in kept}
    changed = {name for name, row in wanted.items() if before.get(name) != row}
    changed -= _deleted(connection, changed)
    new = _register(connection, [v for v in versions if v.name in changed and v not in known])
    wanted |= {v.name: (new[v], None, v.slots) for v in new}
    gone = before.keys() - wanted.keys() - kept
    if gone:
        connection.execute(delete(offers).where(mine, offers.c.name.in_(gone)))
    _write(connection, worker, {name: wanted[name] for name in sorted(changed)})


def withdraw(connection: Connection, worker: str) -> None:
    """Take back everything a worker offered, before it starts anew."""
    connection.execute(delete(offers).where(offers.c.worker == worker))


def forget_silent_workers(connection: Connection) -> None:
    """Withdraw the offers of workers that have been gone for long."""
    last = func.max(offers.c.seen_at)  # a worker that repeats itself writes one row of all it offers
    silent = select(offers.c.worker).group_by(offers.c.worker).having(last < func.now() - SILENT_AFTER)
    connection.execute(delete(offers).where(offers.c.worker.in_(silent)))


def listing(connection: Connection) -> dict[str, Offer]:
    """Every name somebody offers or failed to get; an offer counts before a failure, the newest first."""
    fewest = func.min(offers.c.slots).over(partition_by=offers.c.name).label("slots")
    version = model_versions.alias()  # as it was published: one that cannot be had has an owner, too
    made = select(version.c.owner_id.label("owned_by"), version.c.created_at.label("made_at"))
    made = made.where(version.c.name == offers.c.name, version.c.owner_id.is_not(None))
    own = made.order_by(version.c.id.desc()).limit(1).lateral("own")
    shown = [c for c in model_versions.c if c is not model_versions.c.lineage]  # long, and asked for rarely
    rows = connection.execute(
        select(offers.c.name, offers.c.reason, offers.c.seen_at, fewest, *own.c, *shown)
        .outerjoin(model_versions, model_versions.c.id == offers.c.version_id)
        .outerjoin(own, true())
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
    """The id of a job that has not ended and needs the model, or its tokenizer; None if there is none."""
    reads = and_(jobs.c.queue == "train", jobs.c.input["tokenizer"].astext == name)
    for needs in (jobs.c.model == name, reads):
        for alive in ("'queued'", "'running'"):  # literals: each has an index, which a bound value would hide
            mine = select(jobs.c.id).where(needs, jobs.c.state == literal_column(alive)).limit(1)
            if (found := connection.execute(mine).scalar()) is not None:
                return str(found)
    return None


def _deleted(connection: Connection, names: Iterable[str]) -> set[str]:
    """Those of these names that are of fine-tuned models which nobody owns any more."""
    fine_tuned = {name for name in names if name.startswith(FINE_TUNED)}
    if not fine_tuned:
        return set()
    owned = model_versions.c.owner_id.is_not(None)
    there = select(model_versions.c.name).where(model_versions.c.name.in_(fine_tuned), owned)
    # locked: their deletion waits, and takes the offer with it
    held = there.order_by(model_versions.c.name).with_for_update(key_share=True, read=True)
    return fine_tuned - set(connection.execute(held).scalars())


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
    return Offer(row[0], version, None, row.made_at or row.created_at, row.owned_by)


def _registered(connection: Connection, versions: Sequence[ModelVersion]) -> dict[ModelVersion, int]:
    """The ids of those versions that have a row which says the same of them."""
    columns = [model_versions.c[name] for name in _DESCRIBED]
    named = model_versions.c.name.in_([version.name for version in versions])
    rows = connection.execute(select(model_versions.c.id, *columns).where(named))
    ids = {tuple(described): version_id for version_id, *described in rows}
    found = ((version, ids.get(_described(version))) for version in versions)
    return {version: version_id for version, version_id in found if version_id is not None}


def _register(connection: Connection, versions: Sequence[ModelVersion]) -> dict[ModelVersion, int]:
    """Write the rows of these versions; returns their ids."""
    if not versions:
        return {}
    in_order = sorted(versions, key=lambda version: version.name)  # two workers lock them in one order
    # so not their owners: whoever offers them does not own them
    kept = insert(model_versions).values(
        [dict(zip(_DESCRIBED, _described(v), strict=True)) for v in in_order]
    )
    changed = {name: kept.excluded[name] for name in _DESCRIBED if name not in _KEY}
    kept = kept.on_conflict_do_update(index_elements=_KEY, set_=changed)
    rows = connection.execute(kept.returning(*(model_versions.c[name] for name in (*_KEY, "id"))))
    ids = {tuple(key): version_id for *key, version_id in rows}
    return {version: ids[version.name, version.digest, version.quantization] for version in versions}


def _write(connection: Connection, worker: str, changed: Mapping[str, _Said]) -> None:
    """Keep what is new, and a sign of life."""
    if changed:
        rows = [
            {
                "worker": worker,
                "name": name,
                "version_id": version_id,
                "reason": reason,
                "slots": slots,
                "seen_at": func.now(),
            }
            for name, (version_id, reason, slots) in changed.items()
        ]
        new = insert(offers).values(rows)
        values = {name: new.excluded[name] for name in ("version_id", "reason", "slots", "seen_at")}
        connection.execute(new.on_conflict_do_update(index_elements=["worker", "name"], set_=values))
    mine = offers.c.worker == worker
    first = select(func.min(offers.c.name)).where(mine).scalar_subquery()
    connection.execute(update(offers).where(mine, offers.c.name == first).values(seen_at=func.now()))


def _described(version: ModelVersion) -> tuple[Any, ...]:
    return tuple(getattr(version, name) for name in _DESCRIBED)


_DESCRIBED = [column.name for column in model_versions.c if column.name in ModelVersion.__dataclass_fields__]
_KEY = ["name", "digest", "quantization"]
