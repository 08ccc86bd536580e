"""The way in: a committed row first, then the bell, and neither waits for the other's server."""

import time
from pathlib import Path

import pytest

from jobs import queue
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.queue import DOORBELLS, Chore, QueueName, enqueue, enqueue_group, make_celery, make_signals
from jobs.settings import Settings
from jobs.states import State
from jobs.submission import First
from tests.jobs import samples
from tests.jobs.test_sweeper import Bells


def test_the_row_is_there_before_the_bell_rings(database: Database, owner: int) -> None:
    bells = Bells(database)
    enqueue(database, bells, samples.new(owner, "a"))
    assert bells.rung == ["generate"]
    assert bells.visible == [{"a": State.QUEUED}]


def test_a_database_that_is_down_accepts_nothing_and_rings_nothing(tmp_path: Path) -> None:
    gone = Database(f"postgresql+psycopg://penstock@/postgres?host={tmp_path}")
    bells = Bells()
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        enqueue(gone, bells, samples.new(1, "a"))
    assert time.monotonic() - began < 5
    assert bells.rung == []
    gone.close()


def test_a_job_is_accepted_at_once_while_redis_is_down(
    database: Database, owner: int, settings: Settings, tmp_path: Path
) -> None:
    deaf = make_signals(settings.model_copy(update={"redis_url": f"unix://{tmp_path}/no.sock"}))
    began = time.monotonic()
    for name in map(str, range(20)):
        enqueue(database, deaf, samples.new(owner, name))
    assert time.monotonic() - began < 2
    deaf.close()
    assert len(samples.claim(database)) == 20


def test_a_job_of_an_id_that_exists_is_refused_and_changes_nothing(database: Database, owner: int) -> None:
    enqueue(database, Bells(), samples.new(owner, "a", input={"n": 1}))
    bells = Bells()
    with pytest.raises(Exception, match="pk_jobs"):
        enqueue(database, bells, samples.new(owner, "a", input={"n": 2}))
    assert bells.rung == []
    assert samples.row(database, "a").input == {"n": 1}


def firsts(owner: int, *names: str) -> list[First]:
    return [First(samples.new(owner, name)) for name in names]


def test_a_group_is_accepted_in_its_order_with_one_ring(database: Database, owner: int) -> None:
    bells = Bells(database)
    made = enqueue_group(database, bells, firsts(owner, "b", "a", "c"))
    assert [(one and (one.id, one.queue_position)) for one in made] == [("b", 1), ("a", 2), ("c", 3)]
    assert bells.rung == ["generate"]
    assert bells.visible == [{"a": State.QUEUED, "b": State.QUEUED, "c": State.QUEUED}]


def test_whoever_has_gone_when_the_others_are_written_gets_nothing(database: Database, owner: int) -> None:
    wanted = [*firsts(owner, "a"), First(samples.new(owner, "gone"), gone=lambda: True), *firsts(owner, "b")]
    made = enqueue_group(database, Bells(), wanted)
    assert [one and one.id for one in made] == ["a", None, "b"]
    assert set(samples.states(database)) == {"a", "b"}


def test_a_group_of_which_everybody_has_gone_rings_nothing(database: Database, owner: int) -> None:
    bells = Bells()
    assert enqueue_group(database, bells, [First(samples.new(owner, "a"), gone=lambda: True)]) == [None]
    assert (bells.rung, samples.states(database)) == ([], {})


def test_a_group_with_one_that_cannot_be_written_is_not_accepted(database: Database, owner: int) -> None:
    bells = Bells()
    with pytest.raises(Exception, match="fk_jobs_owner_id"):
        enqueue_group(database, bells, [*firsts(owner, "a"), *firsts(owner + 1, "nobody's")])
    assert (bells.rung, samples.states(database)) == ([], {})


def test_celery_speaks_json_only_keeps_no_results_and_never_waits_for_ever(settings: Settings) -> None:
    conf = make_celery(settings).conf
    assert (conf.task_serializer, conf.accept_content, conf.task_ignore_result) == ("json", ["json"], True)
    assert conf.broker_transport_options["socket_timeout"] == 5
    assert conf.broker_transport_options["health_check_interval"] == 10
    assert not conf.worker_enable_remote_control
    assert not conf.task_acks_late, "a message is never held while work runs"


def test_every_queue_has_bells_of_its_own_and_the_clerk_one_for_each_chore() -> None:
    assert set(DOORBELLS) == set(QueueName) - {QueueName.CLERK}
    assert len({*DOORBELLS.values(), *Chore}) == len(DOORBELLS) + len(Chore)


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("unix:///run/r.sock", "redis+socket:///run/r.sock"),
        ("redis://:secret@host:6379/1", "redis://:secret@host:6379/1"),
        ("rediss://host/0", "rediss://host/0"),
    ],
)
def test_celery_gets_the_same_redis_as_everybody(url: str, broker: str) -> None:
    assert queue._broker_url(url) == broker
