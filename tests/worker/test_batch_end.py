"""The worker tells the clerk when a batch has no line left."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from jobs import batches, execution, submission
from jobs.batches import NewBatch
from jobs.database import Database
from jobs.queue import Chore
from tests.jobs import samples
from worker.intake import Intake


def test_the_clerk_is_rung_for_with_the_commit_of_a_batchs_last_line(database: Database, owner: int) -> None:
    with database.transaction() as connection:
        new = NewBatch("batch_1", owner, 1, "/v1/responses", "file-1", "24h", {}, None)
        batches.create(connection, new)
        for n in (1, 2):
            job = replace(samples.new(owner, f"job {n}"), batch_id=new.id, line=n, custom_id=str(n))
            submission.submit(connection, job)
    rung: list[str] = []
    signals: Any = SimpleNamespace(ring=rung.append, hint=lambda *_: None)
    roster: Any = None
    intake = Intake(database, signals, roster, "w", samples.LEASE, max_failures=1)
    seen = []
    for job in samples.claim(database):
        intake._endings.append(execution.ending(job, {"text": "x"}, 1))
        assert intake._turn()
        seen.append(Chore.BATCHES in rung)
    assert seen == [False, True]
