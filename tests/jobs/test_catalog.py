"""Which models there are, by what workers say."""

from sqlalchemy import text

from jobs import catalog, published
from jobs.database import Database
from tests.jobs.samples import make_silent, version


def test_a_model_is_known_as_its_worker_described_it(database: Database) -> None:
    described = version(chat_template="{{ messages }}")
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [described], {})
        found = catalog.listing(connection)["starter"]
    assert (found.version, found.reason) == (described, None)


def test_a_model_that_could_not_be_had_says_why(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version()], {"big": "no network"})
        found = catalog.listing(connection)
    assert {name: offer.reason for name, offer in found.items()} == {"starter": None, "big": "no network"}
    assert found["big"].version is None


def test_an_offer_counts_before_another_workers_failure(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [], {"starter": "no network"})
        catalog.offer(connection, "w2", [version()], {})
        catalog.offer(connection, "w3", [], {"starter": "no memory"})
        assert catalog.listing(connection)["starter"].version == version()


def test_the_newest_version_counts_while_a_fleet_is_updated(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version(digest="old")], {})
        catalog.offer(connection, "w2", [version(digest="new")], {})
        assert catalog.listing(connection)["starter"].version == version(digest="new")


def test_a_worker_that_offers_again_replaces_all_it_offered_before(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version("a"), version("b")], {"c": "no network"})
        catalog.offer(connection, "w1", [version("b"), version("c")], {})
        found = catalog.listing(connection)
    assert {name: offer.version is not None for name, offer in found.items()} == {"b": True, "c": True}


def test_the_same_weights_may_be_described_anew(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version(context=512)], {})
        catalog.offer(connection, "w1", [version(context=256)], {})
        assert catalog.listing(connection)["starter"].version == version(context=256)


def test_a_worker_that_still_speaks_keeps_its_offers(database: Database) -> None:
    with database.transaction() as connection:
        for worker, name in (("w1", "a"), ("w2", "b")):
            catalog.offer(connection, worker, [version(name)], {})
            make_silent(connection, worker, 2 * catalog.SILENT_AFTER)
        catalog.offer(connection, "w1", [version("a")], {})
        catalog.forget_silent_workers(connection)
        assert set(catalog.listing(connection)) == {"a"}


def test_a_restarting_worker_keeps_its_offers_until_it_has_decided(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version("a")], {})
        catalog.offer(connection, "w1", [], {}, loading={"a", "new"})
        assert {name: offer.status for name, offer in catalog.listing(connection).items()} == {
            "a": "available",
            "new": "loading",
        }
        catalog.offer(connection, "w1", [version("new")], {"a": "The folder is gone."})
        assert {name: offer.status for name, offer in catalog.listing(connection).items()} == {
            "a": "unavailable",
            "new": "available",
        }


def test_of_several_workers_the_fewest_slots_count(database: Database) -> None:
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version(slots=32)], {})
        catalog.offer(connection, "w2", [version(slots=8)], {})
        catalog.offer(connection, "w3", [], {"starter": "no memory"})
        assert catalog.listing(connection)["starter"].version == version(slots=8)


def test_a_fine_tuned_model_that_its_owner_deleted_does_not_come_back(database: Database, owner: int) -> None:
    name = "ft:starter:org::1"
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version()], {name: "not there"})
        assert set(catalog.listing(connection)) == {"starter"}
        connection.execute(
            text("""
                INSERT INTO model_versions (name, digest, quantization, parameters, context, vocab_size,
                  eos_token_id, tokenizer, owner_id, job_id)
                VALUES (:name, 'd', 'int8', 1, 64, 300, 0, 't', :owner, 'ftjob-1')"""),
            {"name": name, "owner": owner},
        )
        catalog.offer(connection, "w1", [version(), version(name)], {})  # in another quantization
        assert catalog.listing(connection)[name].owner_id == owner
        published.remove(connection, name)
        catalog.offer(connection, "w1", [version(), version(name)], {})
        assert set(catalog.listing(connection)) == {"starter"}
