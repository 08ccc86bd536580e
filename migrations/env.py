"""How Alembic reaches the database: through Penstock's own settings."""

from alembic import context
from sqlalchemy import create_engine, text

from jobs import settings
from jobs.queue_tables import metadata

_LOCK = 8_073_541  # two migrations started at once run one after the other


def run() -> None:
    """Run what was asked for in one transaction, alone."""
    url = context.config.attributes.get("url") or settings.read().database
    engine = create_engine(url, connect_args={"connect_timeout": 5})
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            context.run_migrations()
    engine.dispose()


run()
