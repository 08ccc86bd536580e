"""The only place where a pass is cut into parts that threads take through all layers side by side.

Threads inside each operator meet at its end, hundreds of times a pass, and wait there for whoever lost its
core. Threads that each take their own rows through the whole network meet once.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from threading import Event
from typing import TypeVar

import torch

from worker.rows import Chunk, Rows

Result = TypeVar("Result")
FEWEST = 4
"""Rows that are worth a part of their own."""
MOST = 128
"""Rows of a part, on average: what they need in between stays in a core's cache, in memory malloc keeps."""

READ, SAID = 220, 250
"""What a row of a prompt costs, and a next token, where each position that this one looks back at costs 1."""


@dataclass
class Part:
    """Consecutive rows of a pass. One that begins within a chunk looks back at what the part before keeps."""

    rows: Rows
    behind: list[Event] = field(default_factory=list)  # a layer each: set when the part before has kept its
    ahead: list[Event] = field(default_factory=list)  # a layer each: to be set for the part after

    def kept(self, layer: int) -> None:
        """Say that this part's keys and values are there, and wait until those before are."""
        if self.behind:
            self.behind[layer].wait()
        if self.ahead:
            self.ahead[layer].set()

    def over(self) -> None:
        """Let nobody wait for a part that is through, or failed."""
        for event in self.ahead:
            event.set()


def parted(rows: Rows, threads: int, layers: int) -> list[Part]:
    """A pass in parts that take about as long, as many for each thread."""
    total = len(rows.tokens)
    each = -(-total // (threads * MOST))
    count = max(1, min(threads * each, total // FEWEST))
    borders = _borders(rows, count)
    parts = [Part(_within(rows, start, end)) for start, end in pairwise(borders)]
    for border, (before, after) in zip(borders[1:-1], pairwise(parts), strict=True):
        if any(chunk.row < border < chunk.row + chunk.count for chunk in rows.chunks):
            before.ahead = after.behind = [Event() for _ in range(layers)]
    return parts


class Crew:
    """Threads that share a pass; the one that asks is one of them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._others = ThreadPoolExecutor(max(1, threads - 1), "pass", torch.set_num_threads, (1,))

    def run(self, work: Callable[[Part], Result], parts: list[Part]) -> list[Result]:
        """What `work` gives for each part, each with one thread inside its operators."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._run(work, parts)
        finally:
            torch.set_num_threads(before)

    def _run(self, work: Callable[[Part], Result], parts: list[Part]) -> list[Result]:
        # taken from the front by everybody, so that whoever waits for an earlier part waits for a started one
        left = deque(enumerate(parts))
        done: dict[int, Result] = {}

        def take() -> None:
            while left:
                try:
                    number, part = left.popleft()
                except IndexError:  # somebody was faster
                    return
                try:
                    done[number] = work(part)
                finally:
                    part.over()

        others = [self._others.submit(take) for _ in range(min(self.threads, len(parts)) - 1)]
        try:
            take()
        finally:
            errors = [other.exception() for other in others]  # all are through before anybody goes on
        for error in errors:
            if error is not None:
                raise error
        return [done[number] for number in range(len(parts))]


def _borders(rows: Rows, count: int) -> list[int]:
    """Where each part begins, and where the last one ends; no part is empty."""
    said = (SAID + position for position in rows.positions[: rows.decodes])
    costs = list(accumulate([*said, *[READ] * (len(rows.tokens) - rows.decodes)]))
    borders, half_a_row = [0], costs[-1] // (2 * len(costs))
    for part in range(1, count):
        fair = bisect_right(costs, costs[-1] * part // count + half_a_row)
        borders.append(max(borders[-1] + 1, min(fair, len(costs) - count + part)))
    return [*borders, len(costs)]


def _within(rows: Rows, start: int, end: int) -> Rows:
    return Rows(
        tokens=rows.tokens[start:end],
        slots=rows.slots[start:end],
        positions=rows.positions[start:end],
        adapters=rows.adapters[start:end],
        decodes=min(max(rows.decodes - start, 0), end - start),
        chunks=[
            _cut(chunk, start, end)
            for chunk in rows.chunks
            if chunk.row < end and chunk.row + chunk.count > start
        ],
        wanted=[row - start for row in rows.wanted if start <= row < end],
    )


def _cut(chunk: Chunk, start: int, end: int) -> Chunk:
    first, last = max(chunk.row, start), min(chunk.row + chunk.count, end)
    return Chunk(chunk.slot, first - start, chunk.start + first - chunk.row, last - first)
