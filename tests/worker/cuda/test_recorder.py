"""How a graph is made; what CUDA does of it, only a GPU can say (tests/worker/test_cuda.py)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from worker.cuda.recorder import Graphs


def test_work_is_warmed_up_then_captured_where_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []

    class Stream:
        def wait_stream(self, other: Any) -> None:
            events.append("waits")

    class Graph:
        def replay(self) -> None:
            events.append("replay")

    @contextmanager
    def stream(one: Any) -> Iterator[None]:
        events.append("beside")
        yield

    @contextmanager
    def graph(one: Any, **options: Any) -> Iterator[None]:
        events.append((options["pool"], options["capture_error_mode"]))
        yield

    for name, fake in {"Stream": Stream, "CUDAGraph": Graph, "stream": stream, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    graphs = Graphs()
    again = [graphs.record(lambda: events.append("work")) for _ in range(2)]
    assert events == ["waits", "beside", "work", "waits", ("pool", "thread_local"), "work"] * 2
    events.clear()
    for start in again:
        start()
    assert events == ["replay", "replay"]
