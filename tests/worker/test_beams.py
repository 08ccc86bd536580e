"""Beam search against transformers' own, over the same model: hypotheses, scores and endings."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2LMHeadModel, LogitsProcessorList, MinNewTokensLengthLogitsProcessor

from tests.worker.conftest import EOS, random_gpt2
from worker.beams import BLOCK, BeamSearch, top

ENDS = [EOS, 3, 7, 20]


@pytest.fixture(scope="module")
def narrow() -> GPT2LMHeadModel:
    """A model whose texts end often, each at its own place."""
    return random_gpt2(vocab_size=40, n_embd=32, n_layer=2, n_head=2, initializer_range=0.1)


def beam_search(
    model: GPT2LMHeadModel, prompt: list[int], search: BeamSearch, min_tokens: int = 0
) -> BeamSearch:
    """Drive a search with the model's own log-probabilities, every hypothesis anew from its first token."""
    processor = MinNewTokensLengthLogitsProcessor(len(prompt), min_tokens, [EOS])
    for _ in range(10_000):
        said = torch.tensor([prompt + hypothesis for hypothesis in search.hypotheses])
        with torch.inference_mode():
            scores = torch.log_softmax(model(said).logits[:, -1].float(), -1)
        before = search.hypotheses
        parents = search.advance(processor(said, scores))
        if parents is None:
            return search
        assert [before[parent] for parent in parents] == [hypothesis[:-1] for hypothesis in search.hypotheses]
    raise AssertionError("the search does not end")


def reference(model: GPT2LMHeadModel, prompt: list[int], ends: list[int], **asked: Any) -> Any:
    """The texts that transformers finds, cut behind the token that ended them, and their scores."""
    ids = torch.tensor([prompt])
    asked |= {"eos_token_id": ends or None, "pad_token_id": EOS, "do_sample": False}
    asked |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    processors = LogitsProcessorList()
    if least := asked.pop("min_tokens", 0):
        processors.append(MinNewTokensLengthLogitsProcessor(len(prompt), least, [EOS]))
    model.generation_config.eos_token_id = ends or None
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_return_sequences=asked["num_beams"],
        logits_processor=processors,
        **asked,
    )
    texts = []
    for text, rows in zip(found.sequences[:, len(prompt) :].tolist(), found.beam_indices, strict=True):
        texts.append(text[: int((rows >= 0).sum())])
    return texts, found.sequences_scores


def assert_equal(model: GPT2LMHeadModel, prompt: list[int], ends: list[int], **asked: Any) -> BeamSearch:
    """The same texts in the same order, and the same scores."""
    search = BeamSearch(
        asked["num_beams"], ends, asked["max_new_tokens"], asked["length_penalty"], asked["early_stopping"]
    )
    answers = beam_search(model, prompt, search, asked.get("min_tokens", 0)).answers
    texts, scores = reference(model, prompt, ends, **asked)
    assert [answer.tokens for answer in answers] == texts
    torch.testing.assert_close(
        torch.tensor([answer.score for answer in answers]), scores, rtol=1e-4, atol=1e-5
    )
    return search


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("num_beams", [2, 3, 5, 8])
def test_texts_and_scores_are_those_of_transformers(
    narrow: GPT2LMHeadModel, num_beams: int, length_penalty: float, early_stopping: Any
) -> None:
    generator = torch.Generator().manual_seed(num_beams * 7 + int(length_penalty * 2))
    for length in (1, 4, 9):
        prompt = torch.randint(1, 40, (length,), generator=generator).tolist()
        assert_equal(
            narrow,
            prompt,
            ENDS,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_new_tokens=14,
        )


@settings(max_examples=120, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 39), min_size=1, max_size=12),
    ends=st.lists(st.integers(0, 39), max_size=6, unique=True),
    num_beams=st.integers(2, 16),
    length_penalty=st.sampled_from([-0.5, 0.0, 0.7, 1.0, 1.5]),
    early_stopping=st.sampled_from([True, False, "never"]),
    max_new_tokens=st.integers(1, 12),
    min_tokens=st.integers(0, 3),
)
def test_whatever_is_asked(narrow: GPT2LMHeadModel, prompt: list[int], ends: list[int], **asked: Any) -> None:
    assert_equal(narrow, prompt, ends, **asked)


def test_a_larger_vocabulary(gpt2: GPT2LMHeadModel) -> None:
    for prompt in ([5], [7, 8, 9], list(range(20, 60))):
        assert_equal(
            gpt2,
            prompt,
            [EOS],
            num_beams=4,
            length_penalty=1.0,
            early_stopping=False,
            max_new_tokens=20,
        )


def scores(vocab: int, **likely: float) -> Tensor:
    """One row of log-probabilities: those of `t<token>` as given, a little to all others."""
    row = torch.full((1, vocab), 1e-6)
    for name, probability in likely.items():
        row[0, int(name[1:])] = probability
    return row.log()


def test_a_text_says_how_it_ended() -> None:
    search = BeamSearch(beams=2, ends={0}, max_tokens=2, length_penalty=0.0)
    assert search.advance(scores(10, t0=0.5, t1=0.4, t2=0.1)) == [0, 0]
    assert search.hypotheses == [[1], [2]]
    assert search.advance(torch.cat([scores(10, t4=0.9), scores(10, t5=0.9)])) is None
    assert [(answer.tokens, answer.finish_reason) for answer in search.answers] == [
        ([0], "stop"),
        ([1, 4], "length"),
    ]
    assert search.answers[1].total == pytest.approx(torch.tensor(0.36).log().item(), abs=1e-5)


def test_the_search_stops_once_it_has_its_answers_if_told_to() -> None:
    search = BeamSearch(beams=2, ends={0, 1}, max_tokens=50, early_stopping=True)
    assert search.advance(scores(10, t0=0.4, t1=0.3, t2=0.2, t3=0.1)) is None
    assert [answer.tokens for answer in search.answers] == [[0], [1]]
    assert search.hypotheses == []


def test_with_patience_it_goes_on_while_a_better_text_is_possible() -> None:
    search = BeamSearch(beams=2, ends={0, 1}, max_tokens=50, early_stopping="never", length_penalty=1.0)
    assert search.advance(scores(10, t0=0.4, t1=0.3, t2=0.2, t3=0.1)) == [0, 0]


def test_where_length_costs_patience_hopes_for_no_longer_text() -> None:
    search = BeamSearch(beams=2, ends={0}, max_tokens=50, early_stopping="never", length_penalty=-1.0)
    assert search.advance(scores(10, t2=0.5, t0=0.3, t3=0.1)) == [0, 0]
    assert search.advance(torch.cat([scores(10, t4=0.6, t0=0.3), scores(10, t5=0.9)])) == [0, 1]
    assert [answer.tokens for answer in search.answers] == [[0], [2, 0]]


def test_a_text_that_ends_outside_the_best_is_no_answer() -> None:
    search = BeamSearch(beams=2, ends={0}, max_tokens=50)
    assert search.advance(scores(10, t1=0.5, t2=0.3, t0=0.2)) == [0, 0]
    assert search.answers == []


def test_a_forbidden_token_is_not_said_while_another_is_allowed() -> None:
    row = scores(10, t1=0.9)
    row[0, 1] = -torch.inf
    search = BeamSearch(beams=2, ends={0}, max_tokens=5)
    search.advance(row)
    assert all(hypothesis != [1] for hypothesis in search.hypotheses)


@given(
    size=st.integers(1, 40 * BLOCK),
    count=st.integers(1, 40),
    seed=st.integers(0, 1000),
    forbidden=st.sampled_from([0.0, 0.5]),
)
def test_the_largest_are_found_wherever_they_lie(size: int, count: int, seed: int, forbidden: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randperm(size, generator=generator).float()
    values[torch.rand(size, generator=generator) < forbidden] = -torch.inf
    count = min(count, int(values.isfinite().sum()))
    if count:
        best, where = top(values, count)
        assert torch.equal(best, values.topk(count).values)
        assert torch.equal(where, values.topk(count).indices)


def test_the_reference_has_texts_of_both_endings(narrow: GPT2LMHeadModel) -> None:
    """Else the comparisons above would compare less than they seem to."""
    asked = {"num_beams": 8, "length_penalty": 0.0, "early_stopping": False, "max_new_tokens": 14}
    reasons = [
        {answer.finish_reason for answer in assert_equal(narrow, [first, 6], ENDS, **asked).answers}
        for first in range(8)
    ]
    assert {"stop", "length"} in reasons
