"""Brings the database to the newest tables and makes the first API key."""

import sys

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.exc import OperationalError

from jobs import keys, settings
from jobs.database import Database
from jobs.errors import BadSetting, DatabaseUnavailable
from stack import ROOT

FIRST_OWNER = "first"
_WAIT_SECONDS = 60


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the database at `url`."""
    configuration = Config(ROOT / "alembic.ini", attributes={"url": url})
    configuration.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    return configuration


def migrate(url: str) -> str | None:
    """Upgrade; return the first key if there was none yet.

    Raises:
        BadSetting: the database was made by a newer version.
        DatabaseUnavailable: nothing was changed.
    """
    try:
        command.upgrade(alembic_config(url), "head")
    except CommandError as error:
        raise BadSetting(f"The database cannot be brought to this version: {error}.") from None
    except OperationalError as error:
        raise DatabaseUnavailable(str(error).splitlines()[0]) from error
    database = Database(url, connections=1)
    with database.transaction() as connection:
        key = None if keys.any_key(connection) else keys.issue(connection, FIRST_OWNER)
    database.close()
    return key


def main() -> int:
    """Wait for the database, migrate it, and print the first key."""
    try:
        url = settings.read().database
        database = Database(url, connections=1)
        database.wait_until_up(_WAIT_SECONDS)
        database.close()
        key = migrate(url)
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2
    except DatabaseUnavailable as error:
        print(f"The database cannot be reached: {error}", file=sys.stderr)
        return 2
    print("The database is up to date.")
    if key:
        print(f"API key: {key}   (shown only now)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
