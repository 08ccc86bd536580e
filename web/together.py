"""What requests that come at the same time ask of PostgreSQL together: new jobs, and jobs by their id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from sqlalchemy import Connection

from jobs import creates, polling
from jobs.attempts import NewJob
from jobs.creates import Create
from jobs.database import Database
from jobs.grouping import Grouping
from jobs.polling import Asked
from jobs.queue import enqueue_group
from jobs.records import JobRecord
from jobs.signals import Signals


@dataclass(frozen=True)
class First:
    """A job that nobody can have asked for before, of a key without limits."""

    job: NewJob
    create: Create | None = None  # how a repetition will be told
    gone: Callable[[], bool] = lambda: False  # whether its client is


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

        accept = Grouping[First, JobRecord | None](lambda wanted: _accept(database, signals, wanted))
        return cls(accept, Grouping(find), Grouping(version))


def _accept(database: Database, signals: Signals, wanted: Sequence[First]) -> list[JobRecord | None]:
    """Commit these jobs with what tells their repetitions, but for those whose clients have gone."""

    def admit(connection: Connection, _jobs: Sequence[NewJob]) -> list[NewJob]:
        creates.lock_first(connection, [one.create for one in wanted if one.create is not None])
        # looked at under the lock: a retry that comes later waits for it, and finds what is written here
        here = [one for one in wanted if not one.gone()]
        creates.record_all(connection, [(one.create, one.job.id) for one in here if one.create is not None])
        return [one.job for one in here]

    return enqueue_group(database, signals, [one.job for one in wanted], admit)
