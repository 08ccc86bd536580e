"""The GPU's model with its graphs replaced by the work itself, on the CPU or on a GPU that is not there."""

from collections.abc import Iterator

import pytest
import torch
from transformers import GPT2LMHeadModel

from tests.worker.conftest import EOS, weights_of
from tests.worker.cuda.pretended import Pretended, PretendedCuda
from worker.cuda.model import CudaGPT2
from worker.cuda.recorder import Work
from worker.model import Network
from worker.quantize.methods import Method


class Rerun:
    """Does the work when it is recorded, and again each time; counts how often."""

    def __init__(self) -> None:
        self.recorded = self.repeated = 0

    def record(self, work: Work) -> Work:
        """As a graph would, only slower."""
        work()
        self.recorded += 1

        def repeat() -> None:
            self.repeated += 1
            work()

        return repeat


def for_cuda(reference: GPT2LMHeadModel, method: Method = "fp32", recorder: Rerun | None = None) -> CudaGPT2:
    """The model that runs on a GPU, over the reference's weights, on the CPU."""
    architecture, weights = weights_of(reference, method)
    network = Network.build(architecture, weights, method, "cpu")
    return CudaGPT2(network, architecture.n_positions, EOS, lambda: recorder or Rerun())


def on_cuda(reference: GPT2LMHeadModel) -> CudaGPT2:
    """The same on the GPU that is not there."""
    architecture, weights = weights_of(reference, "fp32")
    there = {name: Pretended(weight.contiguous()) for name, weight in weights.items()}  # type: ignore[union-attr]
    network = Network.build(architecture, there, "fp32", "cuda")  # type: ignore[arg-type]
    return CudaGPT2(network, architecture.n_positions, EOS, Rerun)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is a GPU, as far as torch can be made to believe it."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    with PretendedCuda():
        yield
