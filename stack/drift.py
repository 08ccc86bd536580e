"""`make check`: whether the migrations make exactly the tables that the code expects."""

import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.util import CommandError

from jobs import embedded
from jobs.database import Database
from stack.migrate import alembic_config


def main() -> int:
    """Migrate an empty database of its own and compare it with the tables."""
    with tempfile.TemporaryDirectory(prefix="penstock-drift-") as folder:
        var_dir = Path(folder)
        embedded.prepare(var_dir)
        server = subprocess.Popen(embedded.postgres_command(var_dir), stderr=subprocess.DEVNULL)
        try:
            return _compare(embedded.postgres_url(var_dir))
        finally:
            server.terminate()
            server.wait(timeout=20)


def _compare(url: str) -> int:
    database = Database(url, connections=1)
    database.wait_until_up(30)
    database.close()
    configuration = alembic_config(url)
    command.upgrade(configuration, "head")
    try:
        command.check(configuration)
    except CommandError as error:
        print(f"The tables and the migrations differ: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
