"""A step on a GPU waits for it once: every tensor says it is on CUDA, and whoever waits is told off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.inputs import Sampling
from tests.worker.conftest import ours, random_prompts, run
from tests.worker.cuda.conftest import on_cuda
from tests.worker.cuda.pretended import Pretended, Waited
from tests.worker.lanes import lora, write_adapter
from worker.adapters import read_adapter
from worker.cuda.model import CudaGPT2
from worker.decoding import drawing
from worker.engine import Engine
from worker.sequence import Sequence
from worker.transfer import sent

pytestmark = pytest.mark.usefixtures("cuda")

ALL: dict[str, Any] = {
    "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3, "presence_penalty": 0.2,
    "frequency_penalty": 0.1, "no_repeat_ngram_size": 3, "logit_bias": {5: 3.0},
    "bad_words": ((7,), (8, 9)), "min_tokens": 3,
}  # fmt: skip


def asking(**wanted: Any) -> list[Sequence]:
    return [
        Sequence(prompt, Sampling(**{"max_tokens": 9, "seed": number, **wanted}))
        for number, prompt in enumerate(random_prompts(7))
    ]


def reads(model: CudaGPT2, tokenizer: Tokenizer, sequences: list[Sequence]) -> tuple[int, int]:
    """How often the CPU waited, and in how many steps somebody was due."""
    engine = Engine(model, tokenizer, 4, 32)
    for sequence in sequences:
        engine.submit(sequence)
    Pretended.reads = steps = 0
    while not engine.idle:
        before = sum(len(sequence.tokens) for sequence in sequences)
        engine.step()
        steps += sum(len(sequence.tokens) for sequence in sequences) > before
    return Pretended.reads, steps


def on_the_cpu(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, sequences: list[Sequence]) -> list[list[int]]:
    run(Engine(ours(gpt2), tokenizer, 4, 32), sequences)
    return [sequence.tokens for sequence in sequences]


@pytest.mark.parametrize(
    ("wanted", "each"),
    [
        ({"temperature": 0}, 1),
        ({"temperature": 1}, 1),
        ({"top_p": 0.8}, 1),
        ({"min_p": 0.1}, 1),
        ({"typical_p": 0.7}, 1),
        (ALL, 1),
        (ALL | {"logprobs": 2}, 2),
    ],
    ids=str,
)
def test_a_step_waits_once_and_once_more_for_log_probabilities(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, wanted: dict[str, Any], each: int
) -> None:
    sequences = asking(**wanted)
    waited, steps = reads(on_cuda(gpt2), tokenizer, sequences)
    assert waited == each * steps
    assert [sequence.tokens for sequence in sequences] == on_the_cpu(gpt2, tokenizer, asking(**wanted))


def test_beams_wait_for_their_candidates_only(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    wanted = {"num_beams": 3, "temperature": 0}
    sequences = asking(**wanted)
    reads(on_cuda(gpt2), tokenizer, sequences)  # raises where it waits otherwise
    assert [sequence.tokens for sequence in sequences] == on_the_cpu(gpt2, tokenizer, asking(**wanted))


def test_adapters_wait_for_nothing_else(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, sequences = on_cuda(gpt2), asking(temperature=0)
    architecture = model.network.architecture
    adapter = read_adapter(write_adapter(tmp_path, lora(architecture)), architecture)
    with torch.inference_mode():
        there = {name: (Pretended(a + 0), Pretended(b + 0)) for name, (a, b) in adapter.products.items()}
        object.__setattr__(adapter, "products", there)
        model.adapt(adapter)
    for sequence in sequences[::2]:
        sequence.adapter = 0
    waited, steps = reads(model, tokenizer, sequences)
    assert waited == steps


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.tolist(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.sum().item(),
        lambda x: x.to("cpu"),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x[[0, 1]],
        lambda x: x + torch.ones(2),
        lambda x: x.copy_(torch.ones(2)),
        lambda x: x.index_fill_(0, torch.tensor([1]), 2.0),
        lambda x: torch.ones(2).pin_memory().to(x.device),
    ],
)
def test_whoever_waits_is_noticed(waiting: Callable[[torch.Tensor], Any]) -> None:
    x = sent([1.0, 2.0], "cuda")
    assert (x.is_cuda, x.cpu().tolist()) == (True, [1.0, 2.0])
    with pytest.raises(Waited):
        waiting(x)


def test_a_draw_that_looks_who_needs_more_would_wait(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_on_a_cpu(self: Any, logits: Any, chance: Any) -> Any:
        scores = self._own(logits)
        heated = self.filters.heated(scores, scores.amax(-1, keepdim=True))
        return drawing._nucleus(heated, heated.softmax(-1), self.filters, chance, [5, scores.shape[-1]])

    monkeypatch.setattr(drawing.Nucleus, "drawn", as_on_a_cpu)
    with pytest.raises(Waited):
        reads(on_cuda(gpt2), tokenizer, asking(top_p=0.8))
