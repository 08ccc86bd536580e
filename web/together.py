"""What requests that come at the same time ask of PostgreSQL together: new jobs, and jobs by their id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jobs import polling
from jobs.database import Database
from jobs.grouping import Grouping, Overlapping
from jobs.polling import Asked
from jobs.queue import enqueue_group
from jobs.records import JobRecord
from jobs.signals import Signals
from jobs.submission import First


@dataclass(frozen=True)
class Together:
    """The busiest requests, each a statement or a transaction for all who wait for one."""

    accept: Grouping[First, JobRecord | None]
    """None: the client had gone, so nothing was accepted."""
    find: Grouping[Asked, JobRecord | None]
    """By owner, kind and id."""
    version: Grouping[Asked, str | None]
    """Of a job that is shown; None where there is none any more."""

    @classmethod
    def of(cls, database: Database, signals: Signals) -> Self:
        """Nothing is asked of PostgreSQL yet."""

        def find(asked: Sequence[Asked]) -> list[JobRecord | None]:
            with database.driver() as connection:
                return polling.find_all(connection, asked)

        def version(asked: Sequence[Asked]) -> list[str | None]:
            with database.driver() as connection:
                return polling.versions(connection, asked)

        # the disk may take longer than all else, and PostgreSQL makes one wait of those that overlap
        accept = Overlapping[First, JobRecord | None](
            lambda wanted, pass_on: enqueue_group(database, signals, wanted, pass_on)
        )
        return cls(accept, Grouping(find), Grouping(version))
