"""Which models there are, by what workers say."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, text

from jobs import catalog, published
from jobs.database import Database
from jobs.published import Published
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


def test_a_worker_that_repeats_itself_writes_a_sign_of_life_alone(database: Database) -> None:
    versions, failed = [version(f"m{number}") for number in range(20)], {"big": "no network"}
    with database.transaction() as connection:
        catalog.offer(connection, "w1", versions, failed)
    before = written(database)
    with database.transaction() as connection:
        make_silent(connection, "w1", catalog.SILENT_AFTER / 2)
    silent = written(database)
    with database.transaction() as connection:
        catalog.offer(connection, "w1", versions, failed)
    assert len(written(database) - silent) == 1
    with database.transaction() as connection:
        catalog.offer(connection, "w1", [version(f"m{number}", slots=8) for number in range(20)], {})
        found = catalog.listing(connection)
    assert {offer.version.slots for offer in found.values() if offer.version} == {8}
    assert "big" not in found
    assert len(before) == 21 + 20


def written(database: Database) -> set[tuple[str, ...]]:
    """Every row, with the transaction that wrote it last."""
    with database.transaction() as connection:
        offers = connection.execute(text("SELECT name, xmin::text FROM offers")).all()
        versions = connection.execute(text("SELECT 'version ' || name, xmin::text FROM model_versions")).all()
    return {tuple(row) for row in (*offers, *versions)}


def test_a_fine_tuned_model_is_as_old_as_its_publication(database: Database, owner: int) -> None:
    with database.transaction() as connection:
        publish(connection, owner, "ft:starter:org::1")
        aged = text("UPDATE model_versions SET created_at = now() - interval '1 day' RETURNING created_at")
        made = connection.execute(aged).scalar_one()
        catalog.offer(connection, "w1", [version("ft:starter:org::1")], {})
        assert catalog.listing(connection)["ft:starter:org::1"].since == made


def test_what_is_deleted_while_a_worker_offers_it_is_gone(database: Database, owner: int) -> None:
    name = "ft:starter:org::1"
    with database.transaction() as connection:
        publish(connection, owner, name)

    def delete() -> list[str]:
        with database.transaction() as connection:
            return published.remove(connection, name)

    with ThreadPoolExecutor(1) as other:
        with database.transaction() as connection:
            catalog.offer(connection, "w1", [version(name), version()], {})
            catalog.offer(connection, "w2", [], {name: "no network"})
            removed = other.submit(delete)
            with pytest.raises(TimeoutError):
                removed.result(timeout=0.2)
        assert sorted(set(removed.result(timeout=10))) == ["a" * 64, "c" * 64, "t" * 64]
    with database.transaction() as connection:
        assert set(catalog.listing(connection)) == {"starter"}
        assert catalog.last_tokenizer(connection, name) is None
        assert published.remove(connection, name) == []
        assert published.remove(connection, "starter") == [], "it was not made here"


def publish(connection: Connection, owner: int, name: str) -> None:
    made = version(name, quantization="fp32", tokenizer="t" * 64)
    new = Published(made, owner, "ftjob-1", {"base": "starter"}, None, {"config.json": "c" * 64})
    published.publish(connection, new)


def test_what_is_published_or_removed_changes_the_mark(database: Database, owner: int) -> None:
    with database.transaction() as connection:
        marks = [published.mark(connection)]
        catalog.offer(connection, "w1", [version()], {})
        assert published.mark(connection) == marks[0], "it is no news to workers what they say themselves"
        for name in ("ft:a", "ft:b"):
            publish(connection, owner, name)
            marks.append(published.mark(connection))
        published.remove(connection, "ft:a")
        marks.append(published.mark(connection))
        publish(connection, owner, "ft:c")
        marks.append(published.mark(connection))
    assert len(set(marks)) == 5
