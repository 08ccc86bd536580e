"""Callers that come at the same time are served together, and each gets what is theirs."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from jobs.errors import DatabaseUnavailable
from jobs.grouping import Grouping, Overlapping
from tests.conftest import wait_for


class Server:
    """Doubles numbers; holds its first group up until it is let go, and refuses what it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.groups: list[list[int]] = []
        self.go = threading.Event()
        self.grouping = Grouping(self._work)
        self._error = error

    def _work(self, asked: Sequence[int]) -> list[int]:
        self.groups.append(list(asked))
        if len(self.groups) == 1:
            assert self.go.wait(10)
        if self._error is not None and 13 in asked:
            raise self._error
        return [2 * one for one in asked]

    def ask_together(self, numbers: Sequence[int]) -> list[Future[int]]:
        """Ask for 0 alone, and for all of these while it is served."""
        with ThreadPoolExecutor(len(numbers) + 1) as threads:
            asked = [threads.submit(self.grouping.ask, 0)]
            wait_for(lambda: self.groups)
            asked += [threads.submit(self.grouping.ask, number) for number in numbers]
            wait_for(lambda: len(self.grouping._waiting) == len(numbers))
            self.go.set()
        return asked[1:]


def test_a_lone_caller_is_served_at_once() -> None:
    server = Server()
    server.go.set()
    assert [server.grouping.ask(1), server.grouping.ask(2)] == [2, 4]
    assert server.groups == [[1], [2]]


def test_whoever_comes_meanwhile_is_served_in_one_group() -> None:
    server = Server()
    assert [one.result() for one in server.ask_together(range(1, 21))] == list(range(2, 42, 2))
    assert [len(group) for group in server.groups] == [1, 20]


def test_more_than_a_group_holds_are_served_in_the_next() -> None:
    server = Server()
    assert [one.result() for one in server.ask_together(range(1, 101))] == list(range(2, 202, 2))
    assert [len(group) for group in server.groups] == [1, 64, 36]


def test_one_that_fails_fails_alone() -> None:
    server = Server(ValueError("unlucky"))
    found = server.ask_together([11, 12, 13, 14])
    assert [one.result() for one in found if one.exception() is None] == [22, 24, 28]
    assert [str(one.exception()) for one in found if one.exception()] == ["unlucky"]
    assert server.grouping.ask(3) == 6


def test_without_a_database_nobody_is_tried_again() -> None:
    server = Server(DatabaseUnavailable("gone"))
    for one in server.ask_together([11, 12, 13, 14]):
        with pytest.raises(DatabaseUnavailable):
            one.result()
    assert len(server.groups) == 2


def test_the_next_group_begins_when_this_one_says_so() -> None:
    """And the one that said so is answered in its own time, whatever becomes of the next."""
    ended = threading.Event()
    groups: list[list[int]] = []

    def work(asked: Sequence[int], pass_on: Callable[[], None]) -> list[int]:
        groups.append(list(asked))
        pass_on()
        pass_on()
        if asked[0] == 0:
            assert ended.wait(10)
        if asked[0] == 13:
            raise ValueError("thirteen")
        return list(asked)

    grouping = Overlapping(work)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(grouping.ask, 0)
        wait_for(lambda: groups)
        assert grouping.ask(1) == 1
        with pytest.raises(ValueError, match="thirteen"):
            grouping.ask(13)
        assert not first.done()
        ended.set()
        assert first.result(timeout=10) == 0
    assert grouping.ask(2) == 2
    assert groups == [[0], [1], [13], [2]]
