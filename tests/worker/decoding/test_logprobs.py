"""Log-probabilities are the model's own, whatever was asked of the draw."""

from typing import Any

import pytest
import torch

from tests.worker.decoding.samples import asking, drawn, normal, sequence
from worker.decoding.logprobs import logprobs_of
from worker.sequence import Sequence


def test_they_are_of_the_raw_logits() -> None:
    logits = normal(1, 2, 500)
    meddling: dict[str, Any] = {
        "temperature": 0.3,
        "top_k": 4,
        "logit_bias": {7: 30.0},
        "repetition_penalty": 2.0,
    }
    draw = drawn(logits, [sequence(logprobs=0, **meddling), sequence()])
    (logprob, nothing) = draw.logprobs
    assert logprob
    assert (logprob.token, logprob.top) == (7, ())
    assert logprob.logprob == pytest.approx(float(logits[0].double().log_softmax(-1)[7]), abs=1e-5)
    assert nothing is None


def test_the_likeliest_come_best_first_and_each_row_gets_as_many_as_it_asked_for() -> None:
    logits = normal(1, 3, 500)
    draw = drawn(logits, [sequence(logprobs=count) for count in (20, 1, 0)])
    beliefs = logits.double().log_softmax(-1)
    for row, (logprob, count) in enumerate(zip(draw.logprobs, (20, 1, 0), strict=True)):
        assert logprob
        values, ids = beliefs[row].topk(count)
        assert [token for token, _ in logprob.top] == ids.tolist()
        assert [value for _, value in logprob.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_vocabulary_smaller_than_the_wish_is_shown_whole() -> None:
    (logprob,) = logprobs_of(normal(1, 1, 3), [2], 5)
    assert sorted(token for token, _ in logprob.top) == [0, 1, 2]


def test_who_is_to_be_scored_gets_the_number_alone() -> None:
    draw = drawn(normal(1, 1, 50), [Sequence([1], asking(), scored=True)])
    (logprob,) = draw.logprobs
    assert logprob
    assert logprob.token == draw.tokens[0]
    assert logprob.top == ()


def test_those_of_a_prompt_are_the_same_as_while_drawing() -> None:
    logits = normal(4, 5, 3000)
    draw = drawn(logits, [sequence(seed=row, logprobs=3) for row in range(5)])
    before = logits.clone()
    assert logprobs_of(logits, draw.tokens, 3) == draw.logprobs
    assert torch.equal(logits, before)
    assert logprobs_of(logits[:0], [], 3) == []
