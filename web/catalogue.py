"""What whoever makes a job must know of the models: which there are, and how they read."""

from typing import Protocol

from jobs.database import Database
from web.offers import Offers
from web.prompts import Tokenizers


class Models(Protocol):
    """The catalog, as a request needs it."""

    @property
    def database(self) -> Database:
        """Where the responses are that others continue."""

    @property
    def offers(self) -> Offers:
        """Which models there are."""

    @property
    def tokenizers(self) -> Tokenizers:
        """How they read."""
