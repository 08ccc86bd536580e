"""Which model a request may name."""

import time
from collections.abc import Mapping, Sequence

from jobs import catalog
from jobs.catalog import ModelVersion, Offer
from jobs.database import Database
from jobs.grouping import Grouping
from web.errors import NotFound, Unavailable

_REMEMBERED_SECONDS = 1.0


class Offers:
    """The catalog, asked of SQL once per second at most."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: tuple[dict[str, Offer], float] = {}, 0.0  # and until when; read and replaced as one
        self._asking = Grouping[None, Mapping[str, Offer]](self._asked_once)
        self._tokenizers: dict[tuple[str, str], str] = {}

    def all(self) -> Mapping[str, Offer]:
        """Every name that somebody offers or failed to get.

        Raises:
            DatabaseUnavailable: nobody knows.
        """
        found, until = self._known
        return found if time.monotonic() < until else self._asking.ask(None)

    def _asked_once(self, askers: Sequence[None]) -> list[Mapping[str, Offer]]:
        """For all whose time has run out while somebody asks SQL."""
        found, until = self._known
        if time.monotonic() >= until:
            with self._database.transaction() as connection:
                found = catalog.listing(connection)
            self._known = found, time.monotonic() + _REMEMBERED_SECONDS
        return [found for _ in askers]

    def seen_by(self, owner_id: int) -> Mapping[str, Offer]:
        """Those of `all` that an owner may know of."""
        return {name: offer for name, offer in self.all().items() if offer.seen_by(owner_id)}

    def forget(self) -> None:
        """Ask SQL again the next time."""
        self._known = {}, 0.0

    def require(self, name: str, owner_id: int) -> ModelVersion:
        """The version behind a name that an owner may use.

        Raises:
            NotFound: there is none; the message says why, or which names there are.
            Unavailable: it is being loaded, or was published just now.
        """
        return self.offer(name, owner_id)[1]

    def offer(self, name: str, owner_id: int) -> tuple[Offer, ModelVersion]:
        """A name that an owner may use, and the version behind it. Raises as `require`."""
        offers = self.seen_by(owner_id)
        if name not in offers and self._is_published(name, owner_id):
            self.forget()  # workers have perhaps heard of it since
            offers = self.seen_by(owner_id)
            if name not in offers:
                raise _being_loaded(name)
        version = version_of(name, offers)
        return offers[name], version

    def _is_published(self, name: str, owner_id: int) -> bool:
        """Whether it is a fine-tuned model of an owner, offered or not."""
        if not name.startswith(catalog.FINE_TUNED) or "\0" in name:
            return False
        with self._database.reading() as connection:
            return catalog.is_fine_tuned(connection, owner_id, name)

    def reads(self, name: str) -> str:
        """The artifact with the tokenizer of whichever version answers to a name, or did last.

        Raises:
            NotFound: the model was deleted, and its tokenizer with it.
        """
        offer = self.all().get(name)
        if offer is not None and offer.version is not None:
            return offer.version.tokenizer
        with self._database.transaction() as connection:
            found = catalog.last_tokenizer(connection, name)
        if found is None:
            raise _deleted(name)
        return found

    def tokenizer(self, name: str, digest: str) -> str:
        """The artifact with the tokenizer of a version that wrote something, offered still or not.

        Raises:
            NotFound: the model was deleted, and its tokenizer with it.
        """
        known = self._tokenizers.get((name, digest))
        if known is not None:
            return known
        with self._database.transaction() as connection:
            found = catalog.tokenizer(connection, name, digest)
        if found is None:
            raise _deleted(name)
        self._tokenizers[name, digest] = found
        return found


def version_of(name: str, offers: Mapping[str, Offer]) -> ModelVersion:
    """The version behind a name.

    Raises:
        As `Offers.require`.
    """
    offer = offers.get(name)
    if offer is not None and offer.version is not None:
        return offer.version
    if offer is not None and offer.status == "loading":
        raise _being_loaded(name)
    if offer is not None:
        said = f"The model '{name}' is not available: {offer.reason}"
    else:
        names = ", ".join(f"'{other}'" for other, one in offers.items() if one.version)
        there = f"Send one of {names}." if names else "No worker offers any model yet."
        said = f"The model '{name[:100]}' does not exist. {there}"
    raise NotFound(said, param="model", code="model_not_found")


def _being_loaded(name: str, when: str = "in a few seconds", seconds: int = 5) -> Unavailable:
    said = f"The model '{name}' is being loaded. Try again {when}."
    return Unavailable(said, param="model", code="model_loading", retry_after=seconds)


def _deleted(name: str) -> NotFound:
    said = (
        f"The model '{name}' was deleted, and its tokenizer with it. Its answers can be read, not streamed."
    )
    return NotFound(said, param="model", code="model_not_found")
