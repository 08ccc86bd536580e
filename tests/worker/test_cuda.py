"""On a real GPU: graphs are started, nothing waits but the one read, and the tokens are the CPU's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from jobs.inputs import Sampling
from tests.worker.conftest import finish, ours, random_prompts, run, write_folder
from worker.cuda.model import CudaGPT2
from worker.engine import Engine
from worker.loading import load
from worker.quantize.methods import ON_CUDA, Method
from worker.rows import Rows
from worker.sequence import Sequence

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # that it may miss some
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", gpt2, tokenizer)


def on_gpu(folder: Path, method: Method = "fp32") -> CudaGPT2:
    model = load(str(folder), method, "cuda").model
    assert isinstance(model, CudaGPT2)
    return model


def asking(**wanted: Any) -> list[Sequence]:
    return [
        Sequence(prompt, Sampling(**{"max_tokens": 12, "seed": number, **wanted}))
        for number, prompt in enumerate(random_prompts(9))
    ]


@contextmanager
def waiting_only_to_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever else waits for the GPU raises."""
    read = Tensor.cpu

    def quietly(tensor: Tensor) -> Tensor:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return read(tensor)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(Tensor, "cpu", quietly)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        monkeypatch.undo()


@pytest.mark.parametrize(
    "wanted",
    [
        {"temperature": 0},
        {"temperature": 1},
        {"top_p": 0.8, "logprobs": 2},
        {"top_k": 30, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "bad_words": ((8, 9),)},
        {"temperature": 0, "num_beams": 3},
    ],
    ids=str,
)
def test_the_tokens_are_the_cpus_and_a_step_only_waits_to_read(
    folder: Path,
    gpt2: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, Any],
) -> None:
    sequences, others = asking(**wanted), asking(**wanted)
    engine = Engine(on_gpu(folder), tokenizer, 4, 100)
    for sequence in sequences:
        engine.submit(sequence)
    with waiting_only_to_read(monkeypatch):
        finish(engine)
    run(Engine(ours(gpt2), tokenizer, 4, 100), others)
    assert [sequence.tokens for sequence in sequences] == [other.tokens for other in others]


def test_passes_are_graphs_that_are_started_again(folder: Path, tokenizer: Tokenizer) -> None:
    model = on_gpu(folder)
    engine = Engine(model, tokenizer, 4, 100)
    started = []
    for shape, start in model._recorded.items():
        assert isinstance(start.__self__, torch.cuda.CUDAGraph)  # type: ignore[attr-defined]
        model._recorded[shape] = lambda start=start: started.append(start())  # type: ignore[misc]
    run(engine, asking(temperature=0))
    assert len(started) >= engine.steps


@pytest.mark.parametrize("method", ON_CUDA)
def test_every_method_is_near_the_cpu(folder: Path, gpt2: GPT2LMHeadModel, method: Method) -> None:
    mine, theirs = on_gpu(folder, method), ours(gpt2, method)
    rows = Rows()
    for slot, prompt in enumerate(random_prompts(4)):
        rows.wanted.append(rows.add_chunk(slot, 0, prompt)[-1])
    for model in (mine, theirs):
        model.reserve(4)
    expected = theirs.forward(rows)
    error = (mine.forward(rows).cpu() - expected).abs().max() / expected.abs().max()
    assert error < (1e-4 if method == "fp32" else 0.03)
