"""The models that were made here: versions in the catalog whose folders are artifacts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from jobs.catalog import ModelVersion
from jobs.tables import model_files, model_versions, offers


@dataclass(frozen=True)
class Published:
    """A version, whose it is, where it comes from and the files of its folder."""

    version: ModelVersion
    owner_id: int
    job_id: str
    lineage: Mapping[str, Any]  # base, base_digest, training_file, sha256, hyperparameters, code, ...
    base: str | None  # of an adapter: the name of the model under it
    files: Mapping[str, str]  # path in the folder: artifact


def publish(connection: Connection, new: Published) -> None:
    """Make a model known; workers see it within a second or two, and load it when a job waits for it."""
    kept = {
        column.name: getattr(new.version, column.name)
        for column in model_versions.c
        if hasattr(new.version, column.name)
    }
    values = kept | {
        "owner_id": new.owner_id,
        "job_id": new.job_id,
        "lineage": dict(new.lineage),
        "base": new.base,
    }
    made = insert(model_versions).values(**values).returning(model_versions.c.id)
    version_id = connection.execute(made).scalar_one()
    rows = [{"version_id": version_id, "path": path, "artifact": name} for path, name in new.files.items()]
    connection.execute(insert(model_files), rows)


def mark(connection: Connection) -> tuple[int, int]:
    """What changes whenever a model is published or removed: cheap to ask, and nothing else to compare."""
    own = select(func.count(), func.coalesce(func.sum(model_versions.c.id), 0))
    count, total = connection.execute(own.where(model_versions.c.job_id.is_not(None))).one()
    return count, int(total)


def find(connection: Connection, name: str) -> Published | None:
    """The newest version of that name, if it was made here."""
    mine = (model_versions.c.name == name, model_versions.c.job_id.is_not(None))
    found = list_all(connection, mine)
    return found[-1] if found else None


def list_all(
    connection: Connection, where: Sequence[Any] = (model_versions.c.job_id.is_not(None),)
) -> list[Published]:
    """All of them, the oldest first."""
    rows = connection.execute(select(model_versions).where(*where).order_by(model_versions.c.id)).all()
    held: dict[int, dict[str, str]] = {row.id: {} for row in rows}
    for file in connection.execute(select(model_files).where(model_files.c.version_id.in_(held))):
        held[file.version_id][file.path] = file.artifact
    return [_published(row, held[row.id]) for row in rows]


def lineages(connection: Connection, owner_id: int, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Where those of these models come from that are an owner's."""
    mine = (model_versions.c.owner_id == owner_id, model_versions.c.name.in_(list(names)))
    query = select(model_versions.c.name, model_versions.c.lineage).where(*mine)
    return {row.name: row.lineage or {} for row in connection.execute(query.order_by(model_versions.c.id))}


def trained_on(connection: Connection, owner_id: int, file_id: str, artifact: str) -> list[str]:
    """The models of an owner that learned from a file, its bytes under another id, or a model that did."""
    mine = select(model_versions.c.name, model_versions.c.lineage).where(
        model_versions.c.owner_id == owner_id, model_versions.c.job_id.is_not(None)
    )
    found: dict[str, None] = {}
    for row in connection.execute(mine.order_by(model_versions.c.id)):  # a base is there before what it bears
        lineage = row.lineage or {}
        read = lineage.get("training_file") == file_id or lineage.get("training_sha256") == artifact
        if read or lineage.get("base") in found:
            found[row.name] = None
    return list(found)


def adapter_over(connection: Connection, name: str) -> str | None:
    """An adapter that cannot speak without the model of that name; None if there is none."""
    over = (model_versions.c.base == name, model_versions.c.job_id.is_not(None))
    found: str | None = connection.execute(select(model_versions.c.name).where(*over).limit(1)).scalar()
    return found


def remove(connection: Connection, name: str) -> list[str]:
    """Delete every version of a name that was made here; return the artifacts that they leave.

    Nobody offers it any more. A worker that is about to is waited for, so that its word goes, too.
    """
    called = model_versions.c.name == name
    held = select(model_versions.c.id).where(called, model_versions.c.job_id.is_not(None)).with_for_update()
    mine = connection.execute(held).scalars().all()
    if not mine:
        return []
    # a statement of its own sees what workers registered until now under the same name
    files = select(model_files.c.artifact).where(model_files.c.version_id.in_(mine))
    artifacts = list(connection.execute(files).scalars())
    gone = delete(model_versions).where(called).returning(model_versions.c.tokenizer)
    artifacts += connection.execute(gone).scalars()
    connection.execute(delete(offers).where(offers.c.name == name))  # those that only had a reason
    return artifacts


def _published(row: Any, files: dict[str, str]) -> Published:
    version = ModelVersion(
        **{name: getattr(row, name) for name in ModelVersion.__dataclass_fields__ if name != "slots"}, slots=1
    )
    return Published(version, row.owner_id, row.job_id, row.lineage or {}, row.base, files)
