"""Row 7, with more than one message that ends whoever reads it."""

from jobs.queue import QueueName
from tests.conftest import wait_for
from tests.faults.house import House
from tests.faults.ledger import Ledger
from tests.faults.test_redis_faults import BELLS, LETHAL, hears_bells


def test_however_many_messages_would_end_a_worker_only_the_first_does(house: House, ledger: Ledger) -> None:
    with house.redis() as client:
        client.lpush(BELLS, *[LETHAL["not UTF-8"]] * 20)
    house.processes["worker"].died()
    assert house.bells(QueueName.GENERATE) > 0
    again = house.start("worker")
    ledger.submit(4)
    ledger.all_end()
    wait_for(lambda: house.bells(QueueName.GENERATE) == 0)
    hears_bells(house)
    assert again.lives
