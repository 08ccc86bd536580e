"""The clerk's pruning finds what no row tells of, and leaves alone what somebody may need."""

import os
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from sqlalchemy import text

from jobs import files, keys
from jobs.database import Database
from jobs.files import NewFile
from jobs.settings import Settings
from jobs.signals import tokens_key
from tests.conftest import wait_for
from tests.jobs import samples
from web.desk import Desk
from web.retention import Pruner

MONTH = timedelta(days=30)


@pytest.fixture
def age(desk: Desk) -> Callable[[str, int], str]:
    """Make an artifact as old as so many hours."""

    def age(artifact: str, hours: int) -> str:
        then = time.time() - hours * 3600
        os.utime(desk.store._path(artifact), (then, then))
        return artifact

    return age


def there(desk: Desk, artifact: str) -> bool:
    try:
        desk.store.get(artifact)
    except FileNotFoundError:
        return False
    return True


def test_artifacts_that_no_row_names_go_after_a_day(
    desk: Desk, offered: Database, age: Callable[[str, int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_ROWS", 1)
    orphans = [age(desk.store.put(name), 25) for name in (b"orphan", b"another")]
    young = age(desk.store.put(b"young"), 23)
    with offered.transaction() as connection:
        identity = keys.identify(connection, keys.issue(connection, "somebody"))
        assert identity is not None
        needed = age(desk.store.put(b"needed"), 25)
        files.create(connection, NewFile(identity.owner_id, "a", "user_data", 6, needed))
        tokenizer = connection.execute(text("SELECT min(tokenizer) FROM model_versions")).scalar_one()
    age(tokenizer, 25)
    pruner = Pruner(desk, MONTH)
    pruner.prune()
    assert all(there(desk, orphan) for orphan in orphans), "somebody may put the same bytes just now"
    with offered.transaction() as connection:
        noted = set(connection.execute(text("SELECT artifact FROM loose_artifacts")).scalars())
    assert noted & {*orphans, young, needed, tokenizer} == set(orphans)
    with offered.transaction() as connection:
        connection.execute(text("UPDATE loose_artifacts SET since = now() - interval '2 hours'"))
    pruner.prune()
    assert not any(there(desk, orphan) for orphan in orphans)
    assert all(there(desk, artifact) for artifact in (young, needed, tokenizer))


def test_a_store_is_looked_through_once_a_day(desk: Desk, age: Callable[[str, int], str]) -> None:
    pruner = Pruner(desk, MONTH)
    pruner.prune()
    age(desk.store.put(b"later"), 25)
    assert files.loosen_orphans(desk.database, desk.store) == 1
    age(desk.store.put(b"still later"), 25)
    pruner.prune()
    assert files.loosen_orphans(desk.database, desk.store) == 1, "it was not looked for a second time"


def test_what_is_pruned_leaves_redis_too(desk: Desk, offered: Database, settings: Settings) -> None:
    with offered.transaction() as connection:
        identity = keys.identify(connection, keys.issue(connection, "somebody"))
    assert identity is not None
    samples.finished(offered, identity.owner_id, "hidden", timedelta(minutes=11), stored=False)
    with redis.Redis.from_url(settings.redis) as client:
        client.xadd(tokens_key("hidden"), {"t": "[1]"})
        Pruner(desk, MONTH).prune()
        wait_for(lambda: not client.exists(tokens_key("hidden")))
    assert samples.states(offered) == {}
