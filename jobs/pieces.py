"""Long texts tokenized in little memory: in pieces whose tokens are those of the whole."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tokenizers import Tokenizer

from jobs.lines import Flaw

_BATCH = 500_000  # characters that are tokenized together; the tokenizer takes up to 170 bytes for each
_SLICE = 131_072  # characters; a longer text is tokenized in pieces
_EXAMPLES = 2_000  # texts that are tokenized together, where they are short
_NEAR = 4096  # characters in which a place to cut is looked for first
_LONGEST_RUN = 1_000_000  # characters without such a place, which are then cut anywhere

# A byte-level BPE first cuts a text into words, each with the blank before it; none goes on from a letter or
# digit to a blank, and none looks back. So the tokens up to here do not depend on what follows, nor those
# from here on what stood before. The second holds for GPT-2's words, but not for all others.
_CUTS = (re.compile(r"[^\W_](?=[ \n\r\t])"), re.compile(r"\S(?=[ \n\r\t])"))

Part = TypeVar("Part")


def pieces(blocks: Iterable[str | Flaw]) -> Iterator[str | Flaw]:
    """A text cut where its tokens stay the same; the pieces are about as long as the blocks."""
    rest = ""
    for block in blocks:
        if isinstance(block, Flaw):
            yield block
            return
        rest += block
        if cut := _place_to_cut(rest):
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _place_to_cut(text: str) -> int:
    for cut in _CUTS:
        for begin in (max(0, len(text) - _NEAR), 0):
            found = 0
            for match in cut.finditer(text, begin):
                found = match.end()
            if found:
                return found
    return len(text) if len(text) > _LONGEST_RUN else 0


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """The tokens of each text, special ones only where it spells them; the texts together are a batch."""
    short = [text if len(text) <= _SLICE else "" for text in texts]
    made = tokenizer.encode_batch_fast(short, add_special_tokens=False)
    for text, encoding in zip(texts, made, strict=True):
        yield encoding.ids if len(text) <= _SLICE else _encoded_long(tokenizer, text)


def _encoded_long(tokenizer: Tokenizer, text: str) -> list[int]:
    """In memory of a piece of it, and of its tokens."""
    tokens: list[int] = []
    slices = (text[begin : begin + _SLICE] for begin in range(0, len(text), _SLICE))
    parts = (part for part in pieces(slices) if isinstance(part, str))  # a text has no flaws any more
    for batch in batched(parts, len):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            tokens += encoding.ids
    return tokens


def batched(parts: Iterable[Part], length: Callable[[Part], int]) -> Iterator[list[Part]]:
    """Parts together, of so many characters that the tokenizer has work for all its threads."""
    batch: list[Part] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += length(part)
        if size >= _BATCH or len(batch) >= _EXAMPLES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
