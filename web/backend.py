"""What one web process holds open and every request shares."""

from dataclasses import dataclass
from typing import Self

import psycopg
from flask import current_app
from gevent import monkey  # type: ignore[import-untyped]

from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.queue import make_signals
from jobs.settings import Settings
from jobs.signals import Signals
from web import green
from web.admission import Admission
from web.auth import Keys
from web.following import Following
from web.limits import Limiter
from web.offers import Offers
from web.prompts import Tokenizers
from web.shown import Shown
from web.together import Together
from web.waiting import Waiting

_CONNECTIONS = 10  # of one process: a request holds one for a few milliseconds, and none while it waits


@dataclass(frozen=True)
class Backend:
    """Threads and sockets; made in the process that serves, never before a fork."""

    settings: Settings
    database: Database
    signals: Signals
    together: Together
    shown: Shown
    keys: Keys
    limiter: Limiter
    admission: Admission
    offers: Offers
    artifacts: ArtifactStore
    tokenizers: Tokenizers
    waiting: Waiting
    following: Following

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Start the threads. Nothing is asked of PostgreSQL or Redis yet: both may come later."""
        kind = green.Connection if monkey.is_module_patched("select") else psycopg.Connection
        database = Database(settings.database, _CONNECTIONS, kind=kind)
        artifacts = ArtifactStore(settings.artifacts)
        waiting = Waiting(database, settings.redis, places=max(1, settings.web_connections * 7 // 8))
        signals = make_signals(settings)
        return cls(
            settings=settings,
            database=database,
            signals=signals,
            together=Together.of(database, signals),
            shown=Shown(),
            keys=Keys(database),
            limiter=Limiter(settings.redis),
            admission=Admission(database, settings.max_backlog_seconds, settings.sync_wait_seconds),
            offers=Offers(database),
            artifacts=artifacts,
            tokenizers=Tokenizers(artifacts),
            waiting=waiting,
            following=Following(settings.redis, waiting),
        )

    def close(self) -> None:
        """End the threads and give the sockets back."""
        self.following.close()
        self.waiting.close()
        self.signals.close()
        self.limiter.close()
        self.database.close()


def backend() -> Backend:
    """The backend of the app that serves this request."""
    found: Backend = current_app.extensions["penstock"]
    return found
