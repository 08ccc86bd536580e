"""One house for all of these tests; each finds it whole and empty."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tests.conftest import wait_for
from tests.faults.house import House
from tests.faults.ledger import LONGEST, PROMPTS, Ledger, asked


@pytest.fixture(scope="session")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def house(_house: House) -> House:
    """Servers, web, worker, clerk and sweeper, all well, and no job."""
    _house.put_right()
    with _house.database.transaction() as connection:
        for table in ("jobs", "creates", "outbox", "webhook_endpoints", "batches", "files"):
            connection.execute(text(f"DELETE FROM {table}"))
    return _house


@pytest.fixture(scope="session")
def _reference(_house: House) -> dict[str, list[int]]:
    """What an undisturbed run says, of each prompt."""
    ids = {}
    _house.put_right()
    for prompt in PROMPTS:
        ids[prompt] = _house.call("POST", "/v1/responses", asked(prompt, LONGEST)).body["id"]
    query = text("SELECT output FROM jobs WHERE id = :id AND state = 'succeeded'")

    def said(job_id: str) -> list[int] | None:
        with _house.database.transaction() as connection:
            output = connection.execute(query, {"id": job_id}).scalar()
        return output and output["sequences"][0]["tokens"]

    return {prompt: wait_for(lambda job_id=job_id: said(job_id), 60) for prompt, job_id in ids.items()}  # type: ignore[misc]


@pytest.fixture
def ledger(house: House, _reference: dict[str, list[int]]) -> Ledger:
    """An empty record of what clients were told."""
    return Ledger(house, _reference)
