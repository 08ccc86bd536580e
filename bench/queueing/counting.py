"""Counts what psycopg is asked to run; BEGIN and COMMIT go another way and are not counted."""

from typing import Any

import psycopg


class Statements:
    """Of this process, from now on: by SQLAlchemy, by the driver itself and by asyncio alike."""

    def __init__(self) -> None:
        self.count = 0
        self._wrap(psycopg.Cursor)
        self._wrap(psycopg.AsyncCursor)

    def _wrap(self, kind: Any) -> None:
        run, run_many = kind.execute, kind.executemany

        def execute(cursor: Any, *given: Any, **named: Any) -> Any:
            self.count += 1
            return run(cursor, *given, **named)

        def executemany(cursor: Any, query: Any, many: Any, **named: Any) -> Any:
            sent = list(many)
            self.count += len(sent)
            return run_many(cursor, query, sent, **named)

        kind.execute, kind.executemany = execute, executemany
