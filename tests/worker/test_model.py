"""Our network computes what transformers computes, and a row's bits are its own."""

import random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2LMHeadModel

from tests.worker.conftest import EOS, VOCAB, random_gpt2
from worker.adapters import Adapter
from worker.model import ACTIVATIONS, GPT2, Architecture, Network, best_of
from worker.quantize.codes import quantized_weights
from worker.quantize.methods import METHODS, Method
from worker.rows import Chunk, Rows

PRODUCTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def ours(reference: GPT2LMHeadModel, method: Method = "fp32", threads: int = 1) -> GPT2:
    """Our network over the reference's weights."""
    a = Architecture.model_validate(reference.config.to_dict())
    state = reference.state_dict()
    tensors = {
        name: state[name if name == "lm_head.weight" else f"transformer.{name}"].detach().clone()
        for name in a.shapes()
    }
    products = [f"h.{layer}.{product}" for layer in range(a.n_layer) for product in PRODUCTS]
    ranges = dict.fromkeys([*products, "wte", "lm_head"], 8.0) if method == "int8_static" else None
    weights = quantized_weights(a, tensors, method, ranges)
    return GPT2(Network.build(a, weights, method, "cpu"), a.n_positions, EOS, threads)


def prompts(*lengths: int) -> list[list[int]]:
    chooser = random.Random(7)
    return [[chooser.randrange(1, VOCAB) for _ in range(length)] for length in lengths]


def chunks(*parts: tuple[int, int, list[int]], adapters: dict[int, int] | None = None) -> Rows:
    """A pass that reads (slot, start, tokens), and wants the last row of each."""
    rows = Rows()
    for slot, start, tokens in parts:
        rows.chunks.append(Chunk(slot, len(rows.tokens), start, len(tokens)))
        rows.tokens += tokens
        rows.slots += [slot] * len(tokens)
        rows.positions += range(start, start + len(tokens))
        rows.wanted.append(len(rows.tokens) - 1)
    rows.adapters = [adapters.get(slot, -1) for slot in rows.slots] if adapters else []
    return rows


def next_tokens(*tokens: tuple[int, int, int], adapters: dict[int, int] | None = None) -> Rows:
    """A pass over (slot, position, token) in the order of their slots."""
    slots, positions, ids = (list(column) for column in zip(*tokens, strict=True))
    numbers = [adapters.get(slot, -1) for slot in slots] if adapters else []
    return Rows(ids, slots, positions, numbers, len(ids), [], list(range(len(ids))))


def read(model: GPT2, asked: list[list[int]], step: int = 10_000) -> list[torch.Tensor]:
    """The logits after each prompt: its last two tokens come one by one, those before in chunks of `step`."""
    model.reserve(len(asked))
    ends = [max(1, len(tokens) - 2) for tokens in asked]
    logits = [torch.empty(0)] * len(asked)
    for start in range(0, max(ends), step):
        parts = [
            (s, start, t[start : min(end, start + step)])
            for s, (t, end) in enumerate(zip(asked, ends, strict=True))
            if start < end
        ]
        for (slot, _, _), row in zip(parts, model.forward(chunks(*parts)), strict=True):
            logits[slot] = row
    for more in range(2):
        due = [
            (s, end + more, t[end + more])
            for s, (t, end) in enumerate(zip(asked, ends, strict=True))
            if end + more < len(t)
        ]
        if due:
            for (slot, _, _), row in zip(due, model.forward(next_tokens(*due)), strict=True):
                logits[slot] = row
    return logits


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
    for tokens, logits in zip(asked, read(ours(reference), asked), strict=True):
        with torch.inference_mode():
            expected = reference(torch.tensor([tokens])).logits[0, -1]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_greedy_tokens_equal_those_of_generate(gpt2: GPT2LMHeadModel) -> None:
    model, (prompt,) = ours(gpt2), prompts(20)
    model.reserve(1)
    tokens, _ = model.best(chunks((0, 0, prompt)))
    said = tokens.tolist()
    while len(said) < 40:
        tokens, _ = model.best(next_tokens((0, len(prompt) + len(said) - 1, said[-1])))
        said += tokens.tolist()
    with torch.inference_mode():
        asked = torch.tensor([prompt])
        expected = gpt2.generate(  # type: ignore[misc]
            asked, attention_mask=torch.ones_like(asked), max_new_tokens=40, min_new_tokens=0,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert said == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("step", [1, 7, 64])
def test_a_prompt_read_in_chunks_gives_the_same_logits(gpt2: GPT2LMHeadModel, step: int) -> None:
    asked = prompts(3, 150, 33)
    whole = read(ours(gpt2), asked)
    for one, other in zip(whole, read(ours(gpt2), asked, step), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["int8", "int8_static"])
def test_int8_logits_have_the_same_bits_in_chunks_in_company_and_on_two_threads(method: Method) -> None:
    reference = random_gpt2(n_positions=600)
    asked = prompts(500, 3, 190, 1)
    alone = [read(ours(reference, method), [tokens])[0] for tokens in asked]
    for threads, step in ((1, 10), (1, 64), (2, 600), (2, 200)):
        together = read(ours(reference, method, threads), asked, step)
        assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_int8_logits_have_the_same_bits_in_a_chunk_and_token_by_token() -> None:
    model, (tokens,) = ours(random_gpt2(n_positions=600), "int8"), prompts(300)
    assert model.exact_rows
    model.reserve(2)
    model.forward(chunks((0, 0, tokens[:250]), (1, 0, tokens[:250])))
    rows = chunks((0, 250, tokens[250:]))
    rows.wanted = list(range(50))
    draft = model.forward(rows)
    for row, position in enumerate(range(250, 300)):
        assert torch.equal(model.forward(next_tokens((1, position, tokens[position])))[0], draft[row])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_near_fp32(gpt2: GPT2LMHeadModel, method: Method) -> None:
    (tokens,) = prompts(70)
    with torch.inference_mode():
        exact = gpt2(torch.tensor([tokens])).logits[0, -1]
    for rows in (1, 20):  # few and many rows are multiplied in different ways
        (logits, *_) = read(ours(gpt2, method), [tokens] * rows)
        error = ((logits - exact).norm() / exact.norm()).item()
        assert error < {"fp32": 1e-5, "bf16": 0.03, "int8": 0.06, "int8_weight": 0.03}.get(method, 0.4)


@pytest.mark.parametrize("method", ["fp32", "int8"])
def test_best_is_the_argmax_of_the_logits(gpt2: GPT2LMHeadModel, method: Method) -> None:
    model = ours(gpt2, method)
    asked = chunks(*((slot, 0, tokens) for slot, tokens in enumerate(prompts(5, 70, 1))))
    model.reserve(3)
    logits = model.forward(asked)
    tokens, finite = model.best(asked)
    assert torch.equal(tokens, logits.argmax(1))
    assert finite.tolist() == [True] * 3


@pytest.mark.parametrize("vocab", [5, 128, 300, 1000])
def test_the_lowest_id_wins_a_tie(vocab: int) -> None:
    logits = torch.zeros(4, vocab)
    logits[1, vocab - 1], logits[2, 2], logits[3, [1, vocab - 1]] = 1, torch.nan, 7
    tokens, finite = best_of(logits)
    assert tokens[[0, 1, 3]].tolist() == [0, vocab - 1, 1]
    assert finite.tolist() == [True, True, False, True]


@pytest.mark.parametrize("method", ["fp32", "int8", "int8_static", "int8_weight"])
def test_what_is_not_finite_in_one_row_leaves_the_others_alone(gpt2: GPT2LMHeadModel, method: Method) -> None:
    model, asked = ours(gpt2, method), prompts(5, 6, 7)
    model.reserve(3)
    model.forward(chunks(*((slot, 0, tokens) for slot, tokens in enumerate(asked))))
    due = next_tokens((0, 5, 1), (1, 6, 1), (2, 7, 1))
    calm = model.forward(due)
    model._cache._layers[1][0, 1, 1, 0, 5] = torch.nan  # a value of slot 1, which no code can hold
    hurt = model.forward(due)
    assert hurt.isfinite().all(1).tolist() == [True, False, True]
    assert torch.equal(hurt[[0, 2]], calm[[0, 2]])
    assert model.best(due)[1].tolist() == [True, False, True]
    model.clear(1)
    assert model.forward(chunks((1, 0, asked[1]))).isfinite().all()


def test_slots_are_copied_as_if_all_at_once(gpt2: GPT2LMHeadModel) -> None:
    model, (one, other) = ours(gpt2, "int8"), prompts(70, 90)
    model.reserve(3)
    model.forward(chunks((0, 0, one), (1, 0, other)))
    due = next_tokens((0, 70, 9), (1, 90, 9))
    before = model.forward(due)
    model.copy([(1, 0), (0, 1), (0, 2)], [90, 70, 70])
    after = model.forward(next_tokens((0, 90, 9), (1, 70, 9), (2, 70, 9)))
    assert torch.equal(after, before[[1, 0, 0]])


def adapter(seed: int, products: tuple[str, ...] = PRODUCTS) -> Adapter:
    numbers = torch.Generator().manual_seed(seed)
    shapes = {
        "attn.c_attn": (64, 192),
        "attn.c_proj": (64, 64),
        "mlp.c_fc": (64, 256),
        "mlp.c_proj": (256, 64),
    }
    halves = {
        f"h.{layer}.{name}": (
            torch.randn(4, shapes[name][0], generator=numbers) / 8,
            torch.randn(shapes[name][1], 4, generator=numbers) / 8,
        )
        for layer in range(3)
        for name in products
    }
    return Adapter(digest=str(seed), rank=4, products=halves)


def test_an_adapter_gives_what_its_product_in_the_weights_would(gpt2: GPT2LMHeadModel) -> None:
    merged, lora = random_gpt2(), adapter(1)
    with torch.no_grad():
        for name, (a, b) in lora.products.items():
            merged.get_parameter(f"transformer.{name}.weight").add_((b @ a).t())
    model, (prompt,) = ours(gpt2), prompts(30)
    model.reserve(1)
    logits = model.forward(chunks((0, 0, prompt), adapters={0: model.adapt(lora)}))
    with torch.inference_mode():
        expected = merged(torch.tensor([prompt])).logits[0, -1:]
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


def test_many_adapters_share_a_pass_and_keep_each_rows_bits(gpt2: GPT2LMHeadModel) -> None:
    model, asked = ours(gpt2, "int8", threads=2), prompts(30, 31, 32, 33)
    numbers = {0: model.adapt(adapter(1)), 2: model.adapt(adapter(2, ("attn.c_attn",))), 3: 0}
    model.reserve(4)
    whole = chunks(*((slot, 0, tokens) for slot, tokens in enumerate(asked)), adapters=numbers)
    due = [(slot, len(tokens), 5) for slot, tokens in enumerate(asked)]
    together = (model.forward(whole), model.forward(next_tokens(*due, adapters=numbers)))
    for slot, tokens in enumerate(asked):
        first = model.forward(chunks((slot, 0, tokens), adapters=numbers))
        second = model.forward(next_tokens(due[slot], adapters=numbers))
        assert torch.equal(first[0], together[0][slot])
        assert torch.equal(second[0], together[1][slot])


def test_a_forgotten_adapters_number_is_given_again(gpt2: GPT2LMHeadModel) -> None:
    model = ours(gpt2)
    first, second = model.adapt(adapter(1)), model.adapt(adapter(2))
    model.forget(first)
    assert (first, second, model.adapt(adapter(3))) == (0, 1, 0)


def test_a_pass_in_which_nobody_is_due_has_no_logits(gpt2: GPT2LMHeadModel) -> None:
    model, rows = ours(gpt2, "int8"), chunks((0, 0, prompts(20)[0]))
    rows.wanted = []
    assert model.forward(rows).shape == (0, VOCAB)
    assert [found.shape for found in model.best(rows)] == [(0,), (0,)]


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
