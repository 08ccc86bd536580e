"""That a slow chore takes one thread of the clerk, however often its bell is rung."""

import threading
from concurrent.futures import ThreadPoolExecutor

from web.alone import Alone


def test_who_rings_meanwhile_does_not_wait_and_the_work_looks_once_more() -> None:
    looked, go_on, begun = [], threading.Event(), threading.Event()

    def work() -> None:
        looked.append(threading.get_ident())
        begun.set()
        assert go_on.wait(10)

    chore = Alone(work)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(chore.rung)
        assert begun.wait(10)
        for _ in range(5):
            chore.rung()  # returns at once, or this test would stand still here
        go_on.set()
        slow.result(timeout=10)
    assert len(looked) == 2
    assert len(set(looked)) == 1


def test_work_that_raises_can_be_asked_for_again() -> None:
    asked = []

    def work() -> None:
        asked.append(1)
        if len(asked) == 1:
            raise OSError

    chore = Alone(work)
    try:
        chore.rung()
    except OSError:
        chore.rung()
    assert len(asked) == 2
