"""What is past its retention goes, in small pieces, and nothing else does."""

from datetime import timedelta

import pytest
from sqlalchemy import func, insert, text

from jobs import batch_pruning, pruning, sweeper
from jobs.database import Database
from jobs.states import State
from jobs.tables import batch_refusals, batches
from tests.jobs import samples
from tests.jobs.test_sweeper import HOUR, MONTH, Bells


def test_prune_deletes_what_is_past_its_time_with_its_events_and_keeps_the_rest(
    database: Database, owner: int
) -> None:
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        samples.finished(database, owner, f"old {state}", MONTH + HOUR, state=state)
        samples.finished(database, owner, f"new {state}", MONTH - HOUR, state=state)
    samples.submit(database, owner, ["queued", "running"])
    samples.alter(database, "queued", available_at=func.clock_timestamp() + HOUR)
    samples.claim(database)
    old = func.clock_timestamp() - 2 * MONTH
    samples.alter(database, "queued", "running", created_at=old)
    assert pruning.prune(database, MONTH) == 3
    kept = {"new succeeded", "new failed", "new cancelled", "queued", "running"}
    assert set(samples.states(database)) == kept
    with database.transaction() as connection:
        assert samples.events(connection, "old failed") == []
        assert samples.events(connection, "new failed") != []
    assert pruning.prune(database, MONTH) == 0


def test_a_job_that_is_not_to_be_stored_goes_when_no_retry_can_ask_for_it(
    database: Database, owner: int
) -> None:
    samples.finished(database, owner, "read by now", timedelta(minutes=11), stored=False)
    samples.finished(database, owner, "perhaps asked for again", timedelta(minutes=9), stored=False)
    samples.finished(database, owner, "stored", timedelta(minutes=11))
    assert pruning.prune(database, MONTH) == 1
    assert set(samples.states(database)) == {"perhaps asked for again", "stored"}


def test_prune_goes_on_until_nothing_is_left(
    database: Database, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_ROWS", 3)
    for n in range(7):
        samples.finished(database, owner, str(n), 2 * MONTH)
    assert pruning.prune(database, MONTH) == 7
    assert samples.states(database) == {}


def test_the_clerk_is_rung_for_only_while_there_is_something_to_prune(database: Database, owner: int) -> None:
    samples.finished(database, owner, "old", 2 * MONTH)
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert bells.rung == ["clerk.prune"]
    pruning.prune(database, MONTH)
    bells = Bells()
    sweeper.sweep(database, bells, MONTH)
    assert bells.rung == []


def test_a_thousand_of_many_rows_are_found_by_an_index_that_ends_there(
    database: Database, owner: int
) -> None:
    many = text("""
        INSERT INTO jobs (id, owner_id, kind, queue, model, state, stored, request, input, finished_at)
        SELECT 'job ' || n, :owner, 'response', 'generate', 'starter', 'succeeded', n % 2 = 0, '{}', '{}',
          now() - make_interval(days => n % 60)
        FROM generate_series(1, 20000) AS n
    """)
    with database.transaction() as connection:
        connection.execute(many, {"owner": owner})
        connection.execute(text("ANALYZE jobs"))
        for query in pruning._expired(MONTH):
            explained = str(query.limit(1000).compile(connection, compile_kwargs={"literal_binds": True}))
            plan = "\n".join(connection.execute(text(f"EXPLAIN {explained}")).scalars())
            assert "Index Scan" in plan
            assert "Sort" not in plan, "it would read them all to find the first thousand"


def test_a_batch_goes_in_pieces_however_many_lines_it_had(
    database: Database, owner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_pruning, "_ROWS", 3)
    old = func.now() - 2 * MONTH
    with database.transaction() as connection:
        for number in range(7):
            connection.execute(
                insert(batches).values(_batch(owner, f"batch_{number}") | {"completed_at": old})
            )
            refusals = [
                {
                    "batch_id": f"batch_{number}",
                    "line": line,
                    "custom_id": "",
                    "status_code": 400,
                    "error": {},
                }
                for line in range(7)
            ]
            connection.execute(insert(batch_refusals), refusals)
    assert batch_pruning.prune(database, HOUR, MONTH) == 0
    with database.transaction() as connection:
        for table in ("batches", "batch_refusals"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0


def _batch(owner: int, name: str) -> dict[str, object]:
    return {
        "id": name,
        "owner_id": owner,
        "endpoint": "/v1/responses",
        "input_file_id": "file-a",
        "completion_window": "24h",
        "status": "completed",
        "metadata": {},
        "has_lines": True,
        "expires_at": func.now(),
    }
