"""Tiny random GPT-2 models, written and run by transformers, and engines over the same weights."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel

from jobs.inputs import Sampling
from worker.engine import Engine
from worker.model import GPT2, Architecture, Network
from worker.quantize.codes import quantized_weights
from worker.quantize.methods import Method
from worker.quantize.weights import Weight
from worker.sequence import Sequence

VOCAB, CONTEXT, EOS = 300, 256, 0


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """One token per byte, and a few that span characters and bytes of characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": EOS} | {character: number for number, character in enumerate(alphabet, 1)}
    merges = [("e", "n"), ("en", "d"), ("Ġ", "t"), ("Ã", "©"), ("â", "Ĥ"), ("o", "Ã"), ("¬", "!"), ("Ċ", "Ċ")]
    vocab |= {left + right: len(vocab) + number for number, (left, right) in enumerate(merges)}
    made = Tokenizer(models.BPE(vocab, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    return made


def random_gpt2(**changes: Any) -> GPT2LMHeadModel:
    """Weights wide enough that each prompt goes its own way."""
    torch.manual_seed(0)
    fields = {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": 64, "n_layer": 3, "n_head": 4}
    fields |= {"initializer_range": 0.2, "eos_token_id": EOS, "bos_token_id": EOS} | changes
    model = GPT2LMHeadModel(GPT2Config(**fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at zero, which would hide a lost one
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="session")
def gpt2() -> GPT2LMHeadModel:
    """The reference of most tests."""
    return random_gpt2()


def ours(reference: GPT2LMHeadModel, method: Method = "fp32") -> GPT2:
    """Our network over the reference's weights."""
    architecture, weights = weights_of(reference, method)
    return GPT2(Network.build(architecture, weights, method, "cpu"), architecture.n_positions, EOS)


def weights_of(reference: GPT2LMHeadModel, method: Method) -> tuple[Architecture, dict[str, Weight]]:
    """The reference's weights as networks are built from them."""
    architecture = Architecture.model_validate(reference.config.to_dict())
    tensors = {
        name.removeprefix("transformer."): tensor.detach().clone()
        for name, tensor in reference.state_dict().items()
    }
    tensors = {name: tensors[name] for name in architecture.shapes()}
    return architecture, quantized_weights(architecture, tensors, method)


MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> MakeEngine:
    """An engine over the reference's weights."""

    def make(
        method: Method = "fp32", slots: int = 4, token_budget: int = 32, *, speculate: bool = True
    ) -> Engine:
        return Engine(ours(gpt2, method), tokenizer, slots, token_budget, speculate=speculate)

    return make


def greedy(prompt: list[int], max_tokens: int = 8, **changes: Any) -> Sequence:
    """A sequence that takes the likeliest token."""
    return Sequence(prompt, Sampling(**{"max_tokens": max_tokens, "temperature": 0, "seed": 0} | changes))


def random_prompts(count: int, longest: int = 90) -> list[list[int]]:
    """Tokens without meaning, none of them end-of-text; the same each time."""
    chooser = random.Random(3)
    return [[chooser.randrange(1, VOCAB) for _ in range(chooser.randint(1, longest))] for _ in range(count)]


def equally_long(prompts: int, length: int) -> list[list[int]]:
    """Tokens without meaning, none of them end-of-text; the same each time."""
    chooser = random.Random(length)
    return [[chooser.randrange(1, VOCAB) for _ in range(length)] for _ in range(prompts)]


class Wrapped:
    """The real model, with one thing changed on the way."""

    def __init__(self, model: Any) -> None:
        self.inner = model
        self.vocab_size, self.context, self.eos_token_id = model.vocab_size, model.context, model.eos_token_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def run(engine: Engine, sequences: Iterable[Sequence]) -> list[Sequence]:
    """Submit all, step until idle; those that finished, in the order of finishing."""
    for sequence in sequences:
        engine.submit(sequence)
    return finish(engine)


def finish(engine: Engine) -> list[Sequence]:
    """Step until idle."""
    finished: list[Sequence] = []
    for _ in range(10_000):
        if engine.idle:
            return finished
        finished += engine.step()
    raise AssertionError("the engine does not come to rest")


def write_folder(folder: Path, reference: GPT2LMHeadModel, tokenizer: Tokenizer) -> Path:
    """The model as transformers saves it."""
    reference.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
