"""Where a text ends, whatever the borders of its tokens."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from jobs.inputs import Sampling
from tests.worker.conftest import EOS
from worker.sequence import Sequence
from worker.stopping import Detokenizer, Stopping, last_tokens

TEXT = st.text(alphabet="aned té€o😀\n!�", max_size=40)
IDS = st.lists(st.integers(0, 264), min_size=1, max_size=90)  # any bytes, end-of-text among them
fixture_is_shared = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)


def feed(tokenizer: Tokenizer, tokens: list[int], **wanted: Any) -> Sequence:
    """Offer tokens until the sequence ends."""
    sequence = Sequence([1], Sampling(**{"max_tokens": len(tokens), "seed": 0} | wanted))
    stopping = Stopping(tokenizer, EOS)
    for token in tokens:
        if stopping.extend(sequence, token):
            break
    assert not stopping._watches  # nobody who left is remembered
    return sequence


@given(tokens=IDS)
@fixture_is_shared
def test_text_in_pieces_is_the_text_of_all(tokenizer: Tokenizer, tokens: list[int]) -> None:
    detokenizer = Detokenizer(tokenizer)
    told = ""
    for count, token in enumerate(tokens, 1):
        told += detokenizer.push(token)
        assert told == tokenizer.decode(tokens[:count]).removesuffix("�")


def test_long_stretches_of_broken_bytes_are_decoded_in_short_windows(tokenizer: Tokenizer) -> None:
    broken = tokenizer.token_to_id("â")
    end = tokenizer.token_to_id("a")
    detokenizer = Detokenizer(tokenizer)
    told = ""
    for token in [broken] * 500 + [end]:
        told += detokenizer.push(token)
        assert len(detokenizer._window) <= 65
    assert told == "�" * 500 + "a"


@given(
    tokens=st.one_of(IDS, TEXT),
    stop=st.lists(st.text(alphabet="aned té€o😀\n!", min_size=1, max_size=4), min_size=1, max_size=4),
    min_tokens=st.integers(0, 10),
)
@fixture_is_shared
def test_a_stop_string_ends_the_text_at_the_token_that_completes_it(
    tokenizer: Tokenizer, tokens: list[int] | str, stop: list[str], min_tokens: int
) -> None:
    if isinstance(tokens, str):
        tokens = tokenizer.encode(tokens).ids or [5]
    sequence = feed(tokenizer, tokens, stop=tuple(stop), min_tokens=min_tokens, ignore_eos=True)
    early = tokenizer.decode(tokens[: max(0, min_tokens - 1)]).removesuffix("�")
    for count in range(max(1, min_tokens), len(tokens) + 1):
        text = tokenizer.decode(tokens[:count])
        starts = [start for one in stop if (start := text.find(one, max(0, len(early) - len(one) + 1))) >= 0]
        if starts:
            assert sequence.text == text[: min(starts)]
            assert sequence.finish_reason == "stop"
            assert len(sequence.tokens) == count
            return
    assert sequence.text == tokenizer.decode(tokens)
    assert sequence.finish_reason == "length"


@pytest.mark.parametrize("stop", [("the end",), ("x", "end"), ("e e", "the end")])
def test_the_stop_string_is_not_in_the_text(tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    sequence = feed(tokenizer, tokenizer.encode("This is the end. Not more.").ids, stop=stop)
    assert sequence.finish_reason == "stop"
    assert sequence.text in {"This is ", "This is the ", "This is th"}
    assert not any(one in sequence.text for one in stop)


def test_end_of_text_ends_and_is_counted_but_not_shown(tokenizer: Tokenizer) -> None:
    said = tokenizer.encode("end").ids
    sequence = feed(tokenizer, [*said, EOS, *said])
    assert (sequence.text, sequence.finish_reason, sequence.tokens) == ("end", "stop", [*said, EOS])


def test_end_of_text_is_not_shown_where_the_tokenizer_shows_it(tokenizer: Tokenizer) -> None:
    said = tokenizer.encode("abz").ids
    sequence = Sequence([1], Sampling(max_tokens=9, seed=0))
    stopping = Stopping(tokenizer, eos_token_id=said[-1])
    assert [stopping.extend(sequence, token) for token in said] == [False, False, True]
    assert sequence.text == "ab"


def test_ignored_end_of_text_goes_on(tokenizer: Tokenizer) -> None:
    said = tokenizer.encode("end").ids
    sequence = feed(tokenizer, [*said, EOS, *said], ignore_eos=True)
    assert (sequence.text, sequence.finish_reason) == ("endend", "length")


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_token_ends_and_is_counted_but_not_shown(tokenizer: Tokenizer, ignore_eos: bool) -> None:
    said = tokenizer.encode("abzc").ids
    sequence = feed(tokenizer, said, stop_token_ids=(said[2], 7), ignore_eos=ignore_eos)
    assert (sequence.text, sequence.finish_reason, sequence.tokens) == ("ab", "stop", said[:3])


def test_the_tokens_that_end_a_sequence_are_named() -> None:
    asked = Sampling(max_tokens=1, seed=0, stop_token_ids=(5, 7))
    assert last_tokens(asked, EOS) == {EOS, 5, 7}
    assert last_tokens(asked.model_copy(update={"ignore_eos": True}), EOS) == {5, 7}


def test_a_hypothesis_is_closed_with_its_text(tokenizer: Tokenizer) -> None:
    said = tokenizer.encode("end").ids
    sequence, stopping = Sequence([1], Sampling(max_tokens=9, seed=0)), Stopping(tokenizer, EOS)
    stopping.close(sequence, [*said, EOS], "stop")
    assert (sequence.text, sequence.tokens, sequence.finish_reason) == ("end", [*said, EOS], "stop")
    stopping.close(sequence, said, "length")
    assert (sequence.text, sequence.finish_reason) == ("end", "length")


def test_max_tokens_ends(tokenizer: Tokenizer) -> None:
    sequence = feed(tokenizer, tokenizer.encode("abcdef").ids, max_tokens=3)
    assert (sequence.text, sequence.finish_reason) == ("abc", "length")


def test_a_character_cut_in_the_middle_is_shown_as_such(tokenizer: Tokenizer) -> None:
    euro = tokenizer.encode("a€").ids
    sequence = feed(tokenizer, euro, max_tokens=len(euro) - 1, stop=("b",))
    assert (sequence.text, sequence.finish_reason) == ("a�", "length")
