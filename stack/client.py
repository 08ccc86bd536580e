"""`python -m stack.client pg_dump ...`: PostgreSQL's client programs, aimed at this VAR_DIR's database."""

import os
import sys

from jobs import embedded, settings
from jobs.errors import BadSetting

_PROGRAMS = ("psql", "pg_dump", "pg_restore")


def main() -> None:
    """Become the client program."""
    program, *arguments = sys.argv[1:] or [""]
    try:
        config = settings.read()
        if program not in _PROGRAMS:
            raise BadSetting(f"Name a program: python -m stack.client {'|'.join(_PROGRAMS)} [ITS OPTIONS]")
        if config.database_url is not None:
            raise BadSetting("DATABASE_URL is set: use that server's own client programs.")
        command = embedded.client_command(program, config.var_dir, *arguments)
    except BadSetting as error:
        sys.exit(str(error))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
