"""A GPU's passes of few shapes say what the ordinary model says; only the graphs are replaced."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.errors import NumericalError
from jobs.inputs import Sampling
from tests.worker.conftest import CONTEXT, equally_long, finish, greedy, ours, random_prompts, run
from tests.worker.cuda.conftest import Rerun, for_cuda
from tests.worker.lanes import lora, write_adapter
from worker.adapters import read_adapter
from worker.engine import Engine
from worker.quantize.methods import ON_CUDA, Method
from worker.rows import Rows
from worker.sequence import Sequence

DRAWS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1},
    {"top_p": 0.8},
    {"top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2},
    {"temperature": 0, "no_repeat_ngram_size": 2, "bad_words": ((7,), (8, 9)), "min_tokens": 3},
    {"typical_p": 0.7, "logprobs": 2},
    {"temperature": 0, "num_beams": 3},
]


def mixture(count: int = 24) -> list[Sequence]:
    """Everything at once, prompts of 1 to 90 tokens."""
    return [
        Sequence(prompt, Sampling(**{"max_tokens": 12, "seed": number, **DRAWS[number % len(DRAWS)]}))
        for number, prompt in enumerate(random_prompts(count))
    ]


def said(sequences: list[Sequence]) -> list[list[int]]:
    return [sequence.tokens for sequence in sequences]


def test_everyone_says_what_the_ordinary_model_says(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    recorder = Rerun()
    engine = Engine(for_cuda(gpt2, recorder=recorder), tokenizer, slots=7, token_budget=150)
    ordinary = Engine(ours(gpt2), tokenizer, slots=7, token_budget=20)
    one, other = mixture(), mixture()
    run(ordinary, other)
    late = list(one)
    while late or not engine.idle:
        for sequence in late[:2]:
            engine.submit(sequence)
        del late[:2]
        engine.step()
    assert said(one) == said(other)
    assert [s.logprobs for s in one if s.logprobs] != []
    assert recorder.repeated >= engine.steps, "every pass was one of those recorded"


def test_a_burst_of_prompts_is_read_in_several_passes(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    prompts = equally_long(20, 100)
    sequences, others = ([greedy(prompt, 4) for prompt in prompts] for _ in range(2))
    recorder = Rerun()
    engine = Engine(for_cuda(gpt2, recorder=recorder), tokenizer, slots=20, token_budget=2_100)
    for sequence in sequences:
        engine.submit(sequence)
    engine.step()
    assert recorder.repeated == 3  # 40 pieces, 16 at most together
    assert all(len(sequence.tokens) == 1 for sequence in sequences)
    finish(engine)
    run(Engine(ours(gpt2), tokenizer, 20, 64), others)
    assert said(sequences) == said(others)


def test_a_full_context_is_reached(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    (prompt,) = equally_long(1, CONTEXT - 40)
    one, other = (greedy(prompt, 40, ignore_eos=True) for _ in range(2))
    run(Engine(for_cuda(gpt2), tokenizer, 2, 300), [one])
    run(Engine(ours(gpt2), tokenizer, 2, 300), [other])
    assert len(one.tokens) == 40
    assert one.tokens == other.tokens


def test_a_shared_prefix_is_copied_and_continued(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    (shared,) = equally_long(1, 70)
    prompts = [[*shared, ending] for ending in (5, 6, 7)]
    sequences, others = ([greedy(prompt, 6) for prompt in prompts] for _ in range(2))
    run(Engine(for_cuda(gpt2), tokenizer, 3, 200), sequences)
    assert sequences[2].shared == 70
    for sequence in others:
        run(Engine(ours(gpt2), tokenizer, 1, 200), [sequence])
    assert said(sequences) == said(others)


def test_what_somebody_left_in_a_slot_is_not_heard(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    engine = Engine(for_cuda(gpt2), tokenizer, 2, 200)
    stays, leaves = greedy([5] * 9, 30, ignore_eos=True), greedy([6] * 90, 30, ignore_eos=True)
    engine.submit(leaves)
    engine.submit(stays)
    engine.step()
    engine.drop(leaves)
    engine.step()
    engine.submit(late := greedy([7, 8, 9], 10, ignore_eos=True))
    finish(engine)
    for sequence in (stays, late):
        alone = greedy(sequence.prompt, sequence.sampling.max_tokens, ignore_eos=True)
        run(Engine(ours(gpt2), tokenizer, 1, 200), [alone])
        assert sequence.tokens == alone.tokens


def test_a_prompts_own_tokens_are_scored(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    def echoed() -> list[Sequence]:
        wanted = Sampling(max_tokens=3, temperature=0, seed=0, logprobs=2)
        return [Sequence(prompt, wanted, echo=True) for prompt in random_prompts(3)]

    one, other = echoed(), echoed()
    run(Engine(for_cuda(gpt2), tokenizer, 3, 300), one)
    run(Engine(ours(gpt2), tokenizer, 3, 300), other)
    for mine, theirs in zip(one, other, strict=True):
        assert len(mine.prompt_logprobs) == len(mine.prompt)
        for near, exact in zip(mine.prompt_logprobs[1:], theirs.prompt_logprobs[1:], strict=True):
            assert near
            assert exact
            assert near.token == exact.token
            assert near.logprob == pytest.approx(exact.logprob, abs=1e-4)


def test_adapters_are_mixed_in_one_batch(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    mine, theirs = for_cuda(gpt2), ours(gpt2)
    found = []
    for model in (mine, theirs):
        sequences = [greedy(prompt, 8) for prompt in random_prompts(6)]
        for number in range(2):
            architecture = model.network.architecture
            adapter = read_adapter(
                write_adapter(tmp_path / str(number), lora(architecture, seed=number)), architecture
            )
            for sequence in sequences[number::3]:
                sequence.adapter = number
            assert model.adapt(adapter) == number
        run(Engine(model, tokenizer, 4, 60), sequences)
        found.append(said(sequences))
    assert found[0] == found[1]
    plain = [greedy(prompt, 8) for prompt in random_prompts(6)]
    run(Engine(mine, tokenizer, 4, 60), plain)
    assert said(plain) != found[0]


def test_numbers_that_are_not_finite_stay_with_their_sequence(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer
) -> None:
    model = for_cuda(gpt2)
    engine = Engine(model, tokenizer, 3, 100)
    sequences = [greedy(prompt, 20, ignore_eos=True) for prompt in random_prompts(3)]
    for sequence in sequences:
        engine.submit(sequence)
    engine.step()
    with torch.inference_mode():
        model._cache._kept[0, 1, 1, :, 0] = torch.nan
    finish(engine)
    assert [type(sequence.error) for sequence in sequences] == [type(None), NumericalError, type(None)]
    engine.submit(after := greedy([9] * 40, 5))
    finish(engine)
    assert after.error is None


@pytest.mark.parametrize("method", ON_CUDA)
def test_every_method_that_runs_on_a_gpu_is_near_the_ordinary_model(
    gpt2: GPT2LMHeadModel, method: Method
) -> None:
    mine, theirs = for_cuda(gpt2, method), ours(gpt2, method)
    rows = Rows()
    for slot, prompt in enumerate(random_prompts(4)):
        rows.wanted.append(rows.add_chunk(slot, 0, prompt)[-1])
    for model in (mine, theirs):
        model.reserve(4)
    expected = theirs.forward(rows)
    error = (mine.forward(rows) - expected).abs().max() / expected.abs().max()
    assert error < (1e-5 if method == "fp32" else 0.03)


def test_room_for_other_slots_forgets_what_was_kept(gpt2: GPT2LMHeadModel) -> None:
    model = for_cuda(gpt2)
    rows = Rows()
    rows.add_chunk(0, 0, [5, 6, 7])
    rows.wanted = [2]
    model.reserve(1)
    first = model.forward(rows).clone()
    model.reserve(5)
    assert not model._cache._kept[:, :, :, :, 1:].any()
    assert torch.equal(model.forward(rows), first)
    assert model.slot_bytes == model._cache._kept.nbytes // 5
