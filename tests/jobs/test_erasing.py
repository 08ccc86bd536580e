"""An owner who leaves leaves nothing, and takes nothing of anybody else's along."""

import pytest
from sqlalchemy import func, insert, select, text

from jobs import catalog, erasing, files, keys, lifecycle, published
from jobs.artifacts import ArtifactStore
from jobs.attempts import Ending
from jobs.database import Database
from jobs.files import NewFile
from jobs.published import Published
from jobs.settings import Settings
from jobs.tables import metadata
from tests.jobs import samples

_SHARED = {"model_versions", "offers", "trainers", "rates", "tier_turns", "loose_artifacts"}
"""What belongs to nobody alone."""


def everything_of(database: Database) -> dict[str, int]:
    """The rows of every table that is an owner's; those of the catalog by owner."""
    with database.transaction() as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
            if table.name not in _SHARED
        }
        counts["models"] = connection.execute(
            text("SELECT count(*) FROM model_versions WHERE owner_id IS NOT NULL")
        ).scalar_one()
    return {name: count for name, count in counts.items() if count}


def settle_in(database: Database, store: ArtifactStore, name: str) -> str:
    """An owner with some of everything; returns the artifact of its file."""
    with database.transaction() as connection:
        identity = keys.identify(connection, keys.issue(connection, name))
        assert identity is not None
        owner = identity.owner_id
        artifact = store.put(name.encode())
        files.create(connection, NewFile(owner, "a", "user_data", 1, artifact))
        version = samples.version(f"ft:{name}", name, tokenizer=store.put(f"tokenizer {name}".encode()))
        published.publish(connection, Published(version, owner, f"ftjob {name}", {}, None, {"a": artifact}))
        endpoint = {"id": f"we {name}", "owner_id": owner, "name": "", "url": "", "event_types": []}
        table = metadata.tables["webhook_endpoints"]
        connection.execute(insert(table).values(**endpoint, secret=""))
    samples.submit(database, owner, [f"{name} waits", f"{name} runs"])
    samples.finished(database, owner, f"{name} ended", samples.LEASE)
    return artifact


def test_all_that_an_owner_had_is_gone_and_all_that_others_have_stays(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "_ROWS", 2)
    store = ArtifactStore(settings.artifacts)
    settle_in(database, store, "ann")
    alone = everything_of(database)
    settle_in(database, store, "bob")
    erased: list[str] = []
    found = erasing.erase(database, "bob", erased.extend)
    assert found == {"jobs": 3, "batches": 0, "files": 1, "models": 1, "webhook endpoints": 1, "keys": 1}
    assert set(erased) == {"bob waits", "bob runs", "bob ended"}
    assert everything_of(database) == alone
    assert erasing.erase(database, "bob", erased.extend) is None


def test_its_bytes_go_when_no_row_names_them(database: Database, settings: Settings) -> None:
    store = ArtifactStore(settings.artifacts)
    artifact = settle_in(database, store, "ann")
    erasing.erase(database, "ann", lambda ids: None)
    with database.transaction() as connection:
        connection.execute(text("UPDATE loose_artifacts SET since = now() - interval '2 hours'"))
    files.prune(database, store)
    with pytest.raises(FileNotFoundError):
        store.get(artifact)


def test_a_worker_that_runs_its_job_writes_nothing_any_more(database: Database, settings: Settings) -> None:
    settle_in(database, ArtifactStore(settings.artifacts), "ann")
    [job, *_] = samples.claim(database)
    erasing.erase(database, "ann", lambda ids: None)
    with database.transaction() as connection:
        assert lifecycle.settle(connection, [Ending(job.claim, output={"text": "late"})]) == set()
        lost, _ = lifecycle.heartbeat(connection, [job.claim], samples.LEASE)
    assert lost == {job.claim}
    with database.transaction() as connection:
        assert "ft:ann" not in catalog.listing(connection)
