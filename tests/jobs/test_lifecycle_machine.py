"""Random histories of clients, workers, a sweeper and the clock against a model of what must come of them."""

from jobs import claims, lifecycle
from jobs.database import Database
from tests.jobs import machine
from tests.jobs.machine import Rooms


def test_no_history_of_workers_and_clients_breaks_a_job(database: Database, owner: int) -> None:
    machine.check(database, owner, Rooms(lifecycle, claims))
