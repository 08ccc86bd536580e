"""Work that is cheaper together: callers that come at the same time are served by one of them, for all.

A lone caller is served at once. Whoever comes meanwhile waits for the next turn, which one of those who wait
takes for all of them; so groups grow with the load, and no clock and no thread is needed.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from jobs.errors import DatabaseUnavailable

_MOST = 64  # of one group: one that fails is done again one by one

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class _Caller(Generic[Asked, Answer]):
    """Somebody who waits for an answer, an error, or for the turn to serve all who wait."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answer: list[Answer] = []
        self.error: BaseException | None = None
        self._asleep = threading.Lock()  # an Event is made of several things, and one is made for each caller
        self._asleep.acquire()

    def sleep(self) -> None:
        """Until somebody wakes it, which may have happened already."""
        self._asleep.acquire()

    def wake(self) -> None:
        """Once."""
        self._asleep.release()

    @property
    def served(self) -> bool:
        return bool(self.answer) or self.error is not None


class Grouping(Generic[Asked, Answer]):
    """Serves callers in groups, one group at a time."""

    def __init__(self, work: Callable[[Sequence[Asked]], Sequence[Answer]]) -> None:
        """`work` has one answer for each that is asked, in their order; where it raises, it did nothing."""
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[_Caller[Asked, Answer]] = []
        self._busy = False

    def ask(self, asked: Asked) -> Answer:
        """The answer to one caller.

        Raises:
            Whatever `work` raises for this caller alone; DatabaseUnavailable for the whole group.
        """
        caller = _Caller[Asked, Answer](asked)
        with self._lock:
            self._waiting.append(caller)
            waits, self._busy = self._busy, True
        if waits:
            caller.sleep()
        if not caller.served:
            self._serve()
        if caller.error is not None:
            raise caller.error
        return caller.answer[0]

    def _serve(self) -> None:
        """Take a turn: the caller is the first of those who wait."""
        with self._lock:
            group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        passed: list[None] = []

        def pass_on() -> None:
            if not passed:
                passed.append(None)
                self._pass_on()

        try:
            self._answer(group, pass_on)
        finally:  # also where this caller's greenlet is ended in the middle
            for one in group:
                if not one.served:
                    one.error = DatabaseUnavailable("the turn of its group was broken off")
            for one in group[1:]:
                one.wake()
            pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the first of those who wait now, if there is one."""
        with self._lock:
            following = self._waiting[:1]
            self._busy = bool(following)
        for one in following:
            one.wake()

    def _answer(self, group: Sequence[_Caller[Asked, Answer]], pass_on: Callable[[], None]) -> None:
        try:
            answers = self._do([one.asked for one in group], pass_on)
            for one, answer in zip(group, answers, strict=True):
                one.answer.append(answer)
        except Exception as error:  # noqa: BLE001  everybody gets the error of their own
            if len(group) == 1 or isinstance(error, DatabaseUnavailable):
                for one in group:
                    one.error = error
                return
            for one in group:
                self._answer([one], pass_on)

    def _do(self, asked: Sequence[Asked], _pass_on: Callable[[], None]) -> Sequence[Answer]:
        return self._work(asked)


class Overlapping(Grouping[Asked, Answer]):
    """Groups of which the next one begins while this one only waits for its end, when its work says so."""

    def __init__(self, work: Callable[[Sequence[Asked], Callable[[], None]], Sequence[Answer]]) -> None:
        """`work` may call what it gets with its group, from then on beside the work for others."""
        super().__init__(lambda asked: work(asked, lambda: None))
        self._overlapping = work

    def _do(self, asked: Sequence[Asked], pass_on: Callable[[], None]) -> Sequence[Answer]:
        return self._overlapping(asked, pass_on)
