"""One tenant's flood: whatever it sends, another's first job is among the next few."""

import pytest
from sqlalchemy import update

from jobs import keys
from jobs.attempts import Tier
from jobs.database import Database
from jobs.tables import jobs
from tests.jobs import samples

FLOOD = 500
SLOTS = 4


@pytest.mark.parametrize(("tier", "priority"), [(Tier.STANDARD, 0), (Tier.STANDARD, 100), (Tier.BATCH, 0)])
def test_a_flood_of_one_owner_delays_another_s_first_job_by_a_few(
    database: Database, owner: int, tier: Tier, priority: int
) -> None:
    samples.submit(database, owner, (f"flood-{one}" for one in range(FLOOD)), tier)
    with database.transaction() as connection:
        connection.execute(update(jobs).values(priority=priority))
        identity = keys.identify(connection, keys.issue(connection, "small"))
    assert identity is not None
    before = [job.claim.job_id for _ in range(10) for job in samples.claim(database, SLOTS)]
    assert len(before) == 10 * SLOTS
    samples.submit(database, identity.owner_id, ["mine"], tier)
    after = [job.claim.job_id for _ in range(2) for job in samples.claim(database, SLOTS)]
    assert "mine" in after
