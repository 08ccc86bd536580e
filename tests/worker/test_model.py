"""Our network computes what transformers computes."""

import random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from tests.worker.conftest import VOCAB, greedy, ours, random_gpt2, run
from worker.cache import Cache
from worker.engine import Engine
from worker.model import ACTIVATIONS, GPT2, Architecture
from worker.scheduler import Rows, Scheduler
from worker.sequence import Sequence


def prompts(*lengths: int) -> list[list[int]]:
    chooser = random.Random(7)
    return [[chooser.randrange(1, VOCAB) for _ in range(length)] for length in lengths]


def read(model: GPT2, tokens: list[list[int]], sampling: Any, budget: int = 10_000) -> list[torch.Tensor]:
    """The logits after each prompt, all read together."""
    model.reserve(len(tokens))
    scheduler = Scheduler(len(tokens))
    sequences = [Sequence(prompt, sampling) for prompt in tokens]
    scheduler.add(sequences)
    scheduler.admit()
    found: dict[Sequence, torch.Tensor] = {}
    while len(found) < len(tokens):
        rows = scheduler.gather(budget)
        found.update(zip(rows.due, model.forward(rows), strict=True))
        for sequence in rows.due:
            scheduler.remove(sequence)
    return [found[sequence] for sequence in sequences]


@pytest.mark.parametrize(
    "changes",
    [
        *({"activation_function": name} for name in ACTIVATIONS),
        {"n_inner": 100},
        {"scale_attn_weights": False, "initializer_range": 0.05},
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True},
        {"layer_norm_epsilon": 0.1},
        {"tie_word_embeddings": False},
        {"n_positions": 100, "n_head": 2},
    ],
    ids=str,
)
def test_logits_equal_those_of_transformers(changes: dict[str, Any]) -> None:
    reference = random_gpt2(**changes)
    asked = prompts(1, 5, 70)
    for tokens, logits in zip(asked, read(ours(reference), asked, None), strict=True):
        with torch.inference_mode():
            expected = reference(torch.tensor([tokens])).logits[0, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("budget", [1, 7, 64, 1000])
def test_a_prompt_read_in_chunks_gives_the_same_logits(gpt2: GPT2LMHeadModel, budget: int) -> None:
    asked = prompts(3, 150, 33)
    whole = read(ours(gpt2), asked, None)
    for one, other in zip(whole, read(ours(gpt2), asked, None, budget), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_int8_logits_have_the_same_bits_in_chunks_and_in_company(gpt2: GPT2LMHeadModel) -> None:
    reference = random_gpt2(n_positions=600)
    asked = prompts(500, 3, 190, 1)
    alone = [read(ours(reference, "int8"), [tokens], None)[0] for tokens in asked]
    for budget in (10, 64, 600):
        together = read(ours(reference, "int8"), asked, None, budget)
        assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@torch.inference_mode()
def seen(lengths: list[int], budget: int, numbers: torch.Tensor) -> list[torch.Tensor]:
    """What each position of each sequence sees in a layer; the last two come as next tokens."""
    cache = Cache(1, len(lengths), 4, 600, 64, torch.float32, "cpu")
    scheduler = Scheduler(len(lengths))
    sequences = [Sequence([1] * (length - 2), None) for length in lengths]
    scheduler.add(sequences)
    scheduler.admit()
    found: list[list[torch.Tensor]] = [[] for _ in lengths]
    while any(sequence.cached < length for sequence, length in zip(sequences, lengths, strict=True)):
        rows = scheduler.gather(budget)
        query, key, value = numbers[:, rows.positions]
        out = cache.attend(0, query, key, value, cache.plan(rows), 0.125)
        for slot, row in zip(rows.slots, out, strict=True):
            found[slot].append(row)
        for sequence in rows.due:
            sequence.tokens.append(1)
            if sequence.cached == lengths[sequences.index(sequence)]:
                scheduler.remove(sequence)
    return [torch.stack(rows) for rows in found]


@pytest.mark.parametrize("budget", [7, 40, 1000])
def test_attention_has_the_same_bits_in_chunks_and_in_company(budget: int) -> None:
    # a matrix product adds long sums in blocks, and where these begin must not depend on the neighbours
    numbers = torch.randn(3, 600, 4, 64, generator=torch.Generator().manual_seed(0))
    lengths = [500, 3, 190, 450]
    for length, together in zip(lengths, seen(lengths, budget, numbers), strict=True):
        (alone,) = seen([length], 600, numbers)
        assert torch.equal(alone, together)


def test_positions_that_nobody_uses_cost_no_memory(tokenizer: Tokenizer) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    model = ours(random_gpt2(n_positions=2048))
    before = resident()
    engine = Engine(model, tokenizer, 64, 128)  # 200 MB of keys and values
    run(engine, [greedy([5 + number], 3) for number in range(64)])
    assert resident() - before < 50e6


def test_a_pass_in_which_nobody_is_due_has_no_logits(gpt2: GPT2LMHeadModel) -> None:
    model = ours(gpt2, "int8")
    scheduler = Scheduler(1)
    scheduler.add([Sequence(prompts(20)[0], None)])
    scheduler.admit()
    assert model.forward(scheduler.gather(5)).shape == (0, VOCAB)


def test_rows_come_as_next_tokens_then_chunks() -> None:
    scheduler = Scheduler(2)
    talking, reading = (Sequence(tokens, None) for tokens in ([5, 6], [7, 8, 9]))
    scheduler.add([talking, reading])
    scheduler.admit()
    scheduler.gather(2)
    talking.tokens.append(42)
    rows = scheduler.gather(3)
    assert rows == Rows(
        tokens=[42, 7, 8],
        slots=[0, 1, 1],
        positions=[2, 0, 1],
        decodes=1,
        chunks=rows.chunks,
        due=[talking],
        due_rows=[0],
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"activation_function": "maxout"}, "maxout"),
        ({"n_head": 3}, "n_head"),
        ({"n_layer": 0}, "n_layer"),
        ({"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_an_unknown_architecture_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Architecture.model_validate({"model_type": "gpt2", "n_embd": 64} | changes)
