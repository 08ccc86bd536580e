"""Callers that come at the same time are served together, and each gets what is theirs."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from jobs.errors import DatabaseUnavailable
from jobs.grouping import Grouping
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
