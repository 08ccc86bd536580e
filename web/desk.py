"""What the clerk's process holds open and its chores share."""

from dataclasses import dataclass
from typing import Self

from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.queue import Chore, make_signals
from jobs.settings import Settings
from jobs.signals import Signals
from web.offers import Offers
from web.prompts import Tokenizers

_CONNECTIONS = 2 * len(Chore)  # a long chore holds one for what it took, beside its work's


@dataclass(frozen=True)
class Desk:
    """Threads and sockets, and the models that a batch's lines may name (see `web.catalogue.Models`)."""

    database: Database
    signals: Signals
    store: ArtifactStore
    offers: Offers
    tokenizers: Tokenizers

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Start the threads. Nothing is asked of PostgreSQL or Redis yet: both may come later."""
        database = Database(settings.database, _CONNECTIONS, statement_seconds=60)
        store = ArtifactStore(settings.artifacts)
        return cls(database, make_signals(settings), store, Offers(database), Tokenizers(store))

    def close(self) -> None:
        """End the threads and give the sockets back."""
        self.signals.close()
        self.database.close()
