"""Logits are processed as transformers would, each row as it asked, with what it has said so far."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from jobs.inputs import Sampling
from tests.worker.decoding.samples import EOS, asking, normal, processors
from worker.decoding.processors import Processors, processed, processes, refusal

VOCAB = 12  # so few that everything repeats


def expected(logits: Tensor, sampling: Sampling, prompt: list[int], said: list[int]) -> Tensor:
    """[1, vocab] of one row, by transformers; presence and frequency as OpenAI writes them."""
    ids = torch.tensor([prompt + said])
    before, after = LogitsProcessorList(), LogitsProcessorList()
    if sampling.logit_bias:
        bias = {(token,): float(value) for token, value in sampling.logit_bias.items()}
        before.append(SequenceBiasLogitsProcessor(bias))
    before.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.no_repeat_ngram_size:
        after.append(NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size))
    if sampling.bad_words:
        after.append(NoBadWordsLogitsProcessor([list(word) for word in sampling.bad_words]))
    ends = [*sampling.stop_token_ids, *([] if sampling.ignore_eos else [EOS])]
    if ends:
        after.append(MinNewTokensLengthLogitsProcessor(len(prompt), sampling.min_tokens, ends))
    counts = torch.bincount(torch.tensor(said, dtype=torch.long), minlength=logits.shape[-1])
    scores = before(ids, logits)
    scores = scores - (counts * sampling.frequency_penalty + (counts > 0) * sampling.presence_penalty)
    return after(ids, scores)


@given(
    rows=st.lists(
        st.tuples(processors(VOCAB), st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30)),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=120, deadline=None)
def test_a_mixed_batch_is_processed_as_transformers_does_row_by_row(
    rows: list[tuple[dict[str, Any], list[int]]], seed: int
) -> None:
    asked = [asking(**wanted) for wanted, _ in rows]
    prompts = [prompt for _, prompt in rows]
    outputs: list[list[int]] = [[] for _ in rows]
    together = Processors.of(asked, prompts, outputs, VOCAB, EOS, "cpu")
    chance = random.Random(seed)
    for step in range(8):
        logits = normal(seed + step, len(rows), VOCAB)
        wanted = torch.cat([
            expected(logits[row : row + 1], asked[row], prompts[row], outputs[row])
            for row in range(len(rows))
        ])  # fmt: skip
        together.apply(logits, outputs)
        torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-6)
        for output in outputs:
            output += chance.choices(range(VOCAB), k=chance.choice([0, 1, 2]) if step == 4 else 1)


def test_a_history_longer_than_the_room_it_got_is_still_known_whole() -> None:
    wanted = {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "no_repeat_ngram_size": 3}
    sampling, prompt, said = asking(**wanted), [3, 1, 4, 1, 5], list[int]()
    mine = Processors.of([sampling], [prompt], [said], VOCAB, EOS, "cpu")
    chance = random.Random(1)
    for step in range(200):
        logits = normal(step, 1, VOCAB)
        wished = expected(logits, sampling, prompt, said)
        mine.apply(logits, [said])
        torch.testing.assert_close(logits, wished, rtol=1e-6, atol=1e-6)
        said.append(chance.randrange(VOCAB))


def test_what_the_prompt_says_is_not_counted_by_presence_and_frequency() -> None:
    scores = processed(
        torch.zeros(2, 5), asking(presence_penalty=0.5, frequency_penalty=0.25), [1, 2], [[], [2, 3, 3]], EOS
    )
    assert scores.tolist() == [[0, 0, 0, 0, 0], [0, 0, -0.75, -1.0, 0]]


@pytest.mark.parametrize(
    ("said", "banned"), [([], [7]), ([4], [5, 7]), ([4, 4], [5, 7]), ([4, 5], [6, 7]), ([5], [7])]
)
def test_a_bad_word_is_banned_once_all_but_its_last_token_was_said(
    said: list[int], banned: list[int]
) -> None:
    words = ((7,), (4, 5), (4, 5, 6), (9, 9, 9, 9, 8))
    scores = processed(torch.zeros(1, 10), asking(bad_words=words), [9, 9], [said], EOS)
    assert scores[0].isinf().nonzero()[:, 0].tolist() == banned


def test_end_of_text_can_be_a_bad_word() -> None:
    """Transformers ignores this wish; who states it means it."""
    scores = processed(torch.zeros(1, 10), asking(bad_words=((EOS,),)), [1], [[]], EOS)
    assert scores[0, EOS] == -torch.inf


@pytest.mark.parametrize(("ignore_eos", "silent"), [(False, [EOS, 3]), (True, [3])])
def test_min_tokens_silences_every_token_that_would_end_the_text(ignore_eos: bool, silent: list[int]) -> None:
    sampling = asking(min_tokens=2, stop_token_ids=(3,), ignore_eos=ignore_eos)
    scores = processed(torch.zeros(2, 5), sampling, [1], [[1], [1, 1]], EOS)
    assert scores[0].isinf().nonzero()[:, 0].tolist() == silent
    assert not scores[1].isinf().any()


def test_each_beam_is_processed_by_its_own_words() -> None:
    sampling = asking(temperature=0, num_beams=2, no_repeat_ngram_size=2)
    scores = processed(torch.zeros(2, 8), sampling, [1, 2, 3, 1], [[2], [5, 1]], EOS)
    assert scores.isinf().nonzero().tolist() == [[0, 3], [1, 2], [1, 5]]


def test_who_asks_for_nothing_is_not_touched() -> None:
    scores = normal(0, 2, 10)
    assert processed(scores, asking(), [1], [[2], [3]], EOS) is scores
    assert torch.equal(scores, normal(0, 2, 10))
    assert not processes(asking(temperature=0.3, top_k=3, stop_token_ids=(3,)))


@pytest.mark.parametrize(
    ("field", "wish"),
    [
        ("logit_bias", {10: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("bad_words", ((1, 10),)),
        ("stop_token_ids", (10,)),
    ],
)
def test_a_token_outside_the_vocabulary_is_refused_by_its_field(field: str, wish: object) -> None:
    sampling = asking(**{field: wish})
    assert field in (refusal(sampling, 10) or "")
    with pytest.raises(ValueError, match=field):
        Processors.of([sampling], [[1]], [[]], 10, EOS, "cpu")


def test_every_token_of_the_vocabulary_may_be_named() -> None:
    assert refusal(asking(logit_bias={0: 1, 9: 1}, bad_words=((0, 9),), stop_token_ids=(0, 9)), 10) is None
