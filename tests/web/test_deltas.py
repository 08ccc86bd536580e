"""Pieces of a text, against the text that a worker makes of the same tokens."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from jobs.inputs import Sampling
from tests.web.conftest import VOCABULARY
from web.deltas import Deltas
from worker.sequence import Sequence
from worker.stopping import Stopping

EOS = 0
LETTERS = "aned té€o😀\n!�"
TEXT = st.text(alphabet=LETTERS, min_size=1, max_size=40)
IDS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=90)  # any bytes, end-of-text among them
STOPS = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=4)
shared_fixture = settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)


def generated(tokenizer: Tokenizer, tokens: list[int], **wanted: Any) -> Sequence:
    """What a worker makes of these tokens."""
    sequence = Sequence([1], Sampling(**{"max_tokens": len(tokens), "seed": 0} | wanted))
    stopping = Stopping(tokenizer, EOS)
    for token in tokens:
        if stopping.extend(sequence, token):
            break
    return sequence


def pieces(tokenizer: Tokenizer, stop: list[str], tokens: list[int], text: str, known: int) -> list[str]:
    """The pieces for somebody who hears the first `known` tokens as they come, the rest with the text."""
    deltas = Deltas(tokenizer, stop)
    live = [deltas.push(token) for token in tokens[:known]]
    late = [deltas.push(token) for token in tokens[known:-1]]
    last = [deltas.last(token, text) for token in tokens[max(known, len(tokens) - 1) :]]
    return [piece for piece in (*live, *late, *last, deltas.rest(text)) if piece]


@given(
    tokens=st.one_of(IDS, TEXT),
    stop=STOPS,
    min_tokens=st.integers(0, 10),
    ignore_eos=st.booleans(),
    stop_tokens=st.lists(st.integers(0, VOCABULARY - 1), max_size=3),
    data=st.data(),
)
@shared_fixture
def test_the_pieces_are_the_text_and_the_same_for_everybody(
    tokenizer: Tokenizer,
    tokens: list[int] | str,
    stop: list[str],
    min_tokens: int,
    ignore_eos: bool,
    stop_tokens: list[int],
    data: st.DataObject,
) -> None:
    ids = tokenizer.encode(tokens).ids if isinstance(tokens, str) else tokens
    wanted = {"stop": tuple(stop), "min_tokens": min_tokens, "ignore_eos": ignore_eos}
    sequence = generated(tokenizer, ids, stop_token_ids=tuple(stop_tokens), **wanted)
    said, text = sequence.tokens, sequence.text
    ended_by_token = said[-1] in stop_tokens or (said[-1] == EOS and not ignore_eos)
    tellable = len(said) - ended_by_token  # what a worker tells before the end
    rebuilt = pieces(tokenizer, stop, said, text, known=0)
    assert "".join(rebuilt) == text
    known = data.draw(st.integers(0, tellable))
    assert pieces(tokenizer, stop, said, text, known) == rebuilt
    assert pieces(tokenizer, stop, said, text, tellable) == rebuilt


def test_every_token_that_makes_text_certain_has_its_piece(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("def name").ids
    assert len(tokens) > 1
    deltas = Deltas(tokenizer, ())
    assert [deltas.push(token) for token in tokens] == [tokenizer.decode([token]) for token in tokens]


def test_half_a_character_waits_for_the_other_half(tokenizer: Tokenizer) -> None:
    deltas = Deltas(tokenizer, ())
    tokens = tokenizer.encode("é!").ids
    assert [deltas.push(token) for token in tokens] == ["", "é", "!"]


def test_what_may_become_a_stop_string_waits_until_it_does_not(tokenizer: Tokenizer) -> None:
    deltas = Deltas(tokenizer, ["!!x"])
    (sign,) = tokenizer.encode("!").ids
    (other,) = tokenizer.encode("y").ids
    assert [deltas.push(token) for token in (sign, sign, sign, other)] == ["", "", "!", "!!y"]


def test_a_stop_string_that_came_too_early_to_stop_is_said(tokenizer: Tokenizer) -> None:
    deltas = Deltas(tokenizer, ["!"])
    (sign,) = tokenizer.encode("!").ids
    assert [deltas.push(sign), deltas.push(sign)] == ["", "!"]
    assert deltas.rest("!") == ""


def test_a_text_that_its_tokens_do_not_say_is_refused(tokenizer: Tokenizer) -> None:
    deltas = Deltas(tokenizer, ())
    for token in tokenizer.encode("de").ids:
        deltas.push(token)
    with pytest.raises(ValueError, match="not what its tokens say"):
        deltas.rest("dx")


def test_a_decoder_of_words_is_followed_too() -> None:
    words = {"[UNK]": 0, "▁a": 1, "b": 2, "▁": 3, "<0xC3>": 4, "<0xA9>": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = [1, 2, 3, 3, 1, 4, 5, 2]
    text = tokenizer.decode(tokens)
    for known in range(len(tokens)):
        assert "".join(pieces(tokenizer, [], tokens, text, known)) == text
