"""The kernels compute GPT-2: against plain fp32 with the same roundings, for every shape they promise."""

from statistics import median
from typing import Any

import pytest
import torch

from tests.worker.kernels.conftest import (
    Made,
    architecture,
    chunk,
    distance,
    reference,
    some_tokens,
)
from worker.quantize.methods import Method

# An input close to the middle of two codes may be rounded to the other one when sums are ordered otherwise,
# and what attends to it is a little different then. Most short prompts have none such.
MOST, WITH_ANOTHER_CODE = 0.001, 0.08


def error(made: Made, tokens: list[int]) -> float:
    expected = reference(made.architecture, made.weights, tokens)
    return distance(made.model.forward(chunk(tokens)), expected)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_head": 1},  # one wide head of 64
        {"n_embd": 160, "n_head": 2},  # width 80: not a multiple of 64
        {"n_embd": 112, "n_head": 7},  # more heads than look back together
        {"n_inner": 48},
        {"vocab_size": 299},
        {"vocab_size": 5},
        {"vocab_size": 48},
        {"n_positions": 97},
        {"n_layer": 1},
        {"tie_word_embeddings": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"layer_norm_epsilon": 0.1},
        {"activation_function": "gelu_pytorch_tanh"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["int8", "int8_static"])
def test_logits_are_the_networks(shape: dict[str, Any], method: Method) -> None:
    made = Made(architecture(**shape), method)
    full = made.architecture.n_positions
    assert error(made, some_tokens(full, vocab=made.architecture.vocab_size)) < WITH_ANOTHER_CODE
    short = [error(made, some_tokens(4, seed, made.architecture.vocab_size)) for seed in range(15)]
    assert median(short) < MOST
    assert max(short) < WITH_ANOTHER_CODE


def test_a_long_context_is_seen_to_its_beginning() -> None:
    made = Made(architecture(n_positions=1024, n_layer=1))
    tokens = some_tokens(1024)
    assert error(made, tokens) < WITH_ANOTHER_CODE
    before = made.model.forward(chunk(tokens))
    tokens[0] = (tokens[0] + 1) % 300
    assert not torch.equal(made.model.forward(chunk(tokens))[-1], before[-1])


def test_best_is_the_argmax_of_the_logits(made: Made) -> None:
    rows = chunk(some_tokens(60))
    tokens, finite = made.model.best(rows)
    assert torch.equal(tokens, made.model.forward(rows).argmax(1))
    assert finite.all()
    assert len(set(tokens.tolist())) > 10


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("vocab", [5, 300, 4999])
def test_the_lowest_of_equal_tokens_is_best(vocab: int, threads: int) -> None:
    made = Made(architecture(vocab_size=vocab))
    weight = made.weights["wte.weight"]
    weight.codes.copy_(weight.codes[0].clone().expand_as(weight.codes))  # type: ignore[union-attr]
    weight.scales.fill_(0.01)  # type: ignore[union-attr]
    made.model = type(made.model).build(made.architecture, made.weights, "int8", 100, 0)
    made.model.threads = threads
    rows = chunk([0, 1, 2, 3, 4])
    logits = made.model.forward(rows)
    assert torch.equal(logits.amax(1), logits.amin(1))
    assert made.model.best(rows)[0].tolist() == [0] * 5


def test_only_the_wanted_rows_come_out(made: Made) -> None:
    tokens = some_tokens(40)
    everything = made.model.forward(chunk(tokens))
    for wanted in ([39], [0], [3, 4, 5, 6, 7, 8, 20], [0, 39], []):
        found = made.model.forward(chunk(tokens, wanted=wanted))
        assert found.shape == (len(wanted), 300)
        assert torch.equal(found, everything[wanted])
    tokens_of_none, finite = made.model.best(chunk(tokens, wanted=[]))
    assert tokens_of_none.tolist() == finite.tolist() == []


def test_an_empty_pass_is_possible(made: Made) -> None:
    assert made.model.forward(chunk([])).shape == (0, 300)


@pytest.mark.parametrize(
    ("token", "slot", "position"), [(300, 0, 0), (-1, 0, 0), (0, 8, 0), (0, -1, 0), (0, 0, 100)]
)
def test_what_does_not_exist_is_an_error(made: Made, token: int, slot: int, position: int) -> None:
    with pytest.raises(IndexError, match="is not below"):
        made.model.forward(chunk([token], slot, position))
