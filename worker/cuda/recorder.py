"""The only place that knows CUDA graphs: a pass is recorded once and afterwards started as a whole."""

from collections.abc import Callable
from typing import Protocol

import torch

Work = Callable[[], None]
"""Reads and writes tensors that stay where they are, and waits for nothing."""


class Recorder(Protocol):
    """Makes work quick to repeat. What it leaves in memory of its own is lost when other work is repeated."""

    def record(self, work: Work) -> Work:
        """The same work, to be repeated; it may be done once or more meanwhile."""


class Graphs:
    """A CUDA graph for each, in memory that all of them share.

    They may share it since none is started before the one before it is over, and what they are to leave is
    written elsewhere.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, work: Work) -> Work:
        """Done once first: libraries choose their kernels and take their memory then."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            work()
        here.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": models are loaded by a thread of their own while another one steps
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay
