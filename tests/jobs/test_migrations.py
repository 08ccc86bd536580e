"""The migrations make exactly the tables that the code speaks of."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, make_url, text

from jobs.database import Database
from jobs.queue_tables import metadata
from stack.migrate import alembic_config
from tests.conftest import ROOT

Scratch = Callable[[str], str]

CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


@pytest.fixture
def scratch(database: Database) -> Iterator[Scratch]:
    """Makes empty databases beside the tests' own."""
    engine = create_engine(database.engine.url, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make(name: str) -> str:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
        made.append(name)
        return make_url(database.engine.url).set(database=name).render_as_string(hide_password=False)

    yield make
    with engine.connect() as connection:
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def catalog(url: str) -> dict[str, set[tuple[object, ...]]]:
    """What PostgreSQL itself says there is, but for Alembic's own table."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            kind: {tuple(row) for row in connection.execute(text(query)) if row[0] != "alembic_version"}
            for kind, query in CATALOG.items()
        }
    engine.dispose()
    return found


def test_upgrading_from_nothing_gives_exactly_the_tables_of_the_code(scratch: Scratch) -> None:
    """Alembic does not compare checks, defaults and conditions of indexes; PostgreSQL's catalog does."""
    migrated, made = scratch("migrated"), scratch("made")
    command.upgrade(alembic_config(migrated), "head")
    engine = create_engine(made)
    metadata.create_all(engine)
    engine.dispose()
    found, expected = catalog(migrated), catalog(made)
    for kind in CATALOG:
        assert found[kind] ^ expected[kind] == set(), kind
    engine = create_engine(migrated)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_going_down_to_nothing_and_up_again_works(scratch: Scratch) -> None:
    url = scratch("there_and_back")
    command.upgrade(alembic_config(url), "head")
    before = catalog(url)
    command.downgrade(alembic_config(url), "base")
    engine = create_engine(url)
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()
    command.upgrade(alembic_config(url), "head")
    assert catalog(url) == before


def test_two_upgrades_at_once_both_succeed(scratch: Scratch) -> None:
    url = scratch("twice")
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(upgrade_elsewhere, url) for _ in range(2)]:
            assert done.result(timeout=60) == 0
    assert {row[0] for row in catalog(url)["columns"]} == set(metadata.tables)


def upgrade_elsewhere(url: str) -> int:
    """Upgrade in a process of its own: Alembic's context is one per process."""

    program = (
        "import sys; from alembic import command; from stack.migrate import alembic_config; "
        "command.upgrade(alembic_config(sys.argv[1]), 'head')"
    )
    return subprocess.run([sys.executable, "-c", program, url], cwd=ROOT, timeout=60, check=False).returncode
