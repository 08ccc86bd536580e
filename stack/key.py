"""`make -s key`: one more API key for the stack of this VAR_DIR, alone on standard output."""

import argparse
import os
import sys

from sqlalchemy.exc import ProgrammingError

from jobs import keys, settings
from jobs.database import Database
from jobs.errors import BadSetting, DatabaseUnavailable


def main() -> int:
    """Print a new key, of the owner that OWNER names, else of a new one; or revoke one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revoke", metavar="KEY", help="end the key that begins like this")
    revoked = parser.parse_args().revoke
    try:
        config = settings.read()
        made = _change(Database(config.database, connections=1), revoked)
    except BadSetting as error:
        print(error, file=sys.stderr)
    except DatabaseUnavailable as error:
        embedded = f"No stack runs on {config.var_dir}: start it with `make up`, then ask again."
        elsewhere = f"The database of DATABASE_URL cannot be reached: {error}"
        print(elsewhere if config.database_url else embedded, file=sys.stderr)
    except ProgrammingError:
        print("The database has no tables yet: wait until the stack says that it is up.", file=sys.stderr)
    else:
        print(made, end="")
        return 0
    return 2


def _change(database: Database, revoked: str | None) -> str:
    """Commit the change; return what is to be printed."""
    with database.transaction() as connection:
        if revoked is None:
            owner = os.environ.get("OWNER") or keys.unused_name(connection)
            return keys.issue(connection, owner) + "\n"
        if not keys.revoke(connection, revoked):
            raise BadSetting(f"There is no key that begins with {revoked[:24]!r}, or it is revoked already.")
        return ""


if __name__ == "__main__":
    sys.exit(main())
