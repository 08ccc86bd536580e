"""`make -s key`: one more API key for the stack of this VAR_DIR, alone on standard output."""

import argparse
import os
import sys

from sqlalchemy.exc import ProgrammingError

from jobs import keys, settings
from jobs.database import Database
from jobs.errors import BadSetting, DatabaseUnavailable
from stack import ROOT


def main() -> int:
    """Print a new key, of the owner that OWNER names, else of a new one; or revoke one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revoke", metavar="KEY", help="end the key that begins like this")
    revoked = parser.parse_args().revoke
    try:
        config = settings.read()
        with Database(config.database, connections=1).transaction() as connection:
            if revoked is None:
                print(keys.issue(connection, os.environ.get("OWNER") or keys.unused_name(connection)))
            elif not keys.revoke(connection, revoked):
                raise BadSetting(
                    f"There is no key that begins with {revoked[:24]!r}, or it is revoked already."
                )
    except BadSetting as error:
        print(error, file=sys.stderr)
    except DatabaseUnavailable:
        print(f"No stack runs on {config.var_dir}: start it with `make up`, then ask again.", file=sys.stderr)
    except ProgrammingError:
        print("The database has no tables yet: wait until `make up` says that it is up.", file=sys.stderr)
    else:
        return 0
    return 2


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
