"""Training data as tokens: the same for whoever checks a file, counts it and learns from it.

Plain text is one document, exactly the tokens of the whole of it. All else ends with the end-of-text token.
Of what has answers only these are learned, and they are tokenized as a model meets them: what stands before
an answer on its own, then the answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from tokenizers import Tokenizer

from jobs import chat_template, training_data
from jobs.chat_template import TemplateRefusal
from jobs.errors import InvalidTrainingFile
from jobs.lines import Flaw
from jobs.pieces import batched, encoded, pieces
from jobs.training_data import Layout

DEFAULT_CHAT_TEMPLATE = """\
{% for message in messages %}
{% if message.role == 'assistant' %}
{{ '### Assistant:\\n' + message.content + eos_token }}
{%- elif message.role in ('system', 'user') %}
{{ '### ' + message.role | capitalize + ':\\n' + message.content + '\\n\\n' }}
{%- else %}
{{ raise_exception("a message is of 'system', 'user' or 'assistant'") }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '### Assistant:\\n' }}
{%- endif %}
"""
"""For a base without one: it needs no token that GPT-2 does not have, and only ever appends."""


@dataclass(frozen=True)
class Reader:
    """Who is to learn: how it reads and how much at once."""

    tokenizer: Tokenizer
    eos_token_id: int
    vocab_size: int
    chat_template: str | None  # see `template_for`; None: the default one, where the data needs one
    block_size: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document or, of a plain text, a piece of it."""

    tokens: list[int]
    learned: list[bool] | None  # of each token; None: all are
    line: int  # on which it begins
    begins: bool = True  # False: goes on where the one before it ended
    cut: bool = False  # what stood before its first answer did not fit the block


@dataclass(frozen=True, slots=True)
class _Example:
    """What stands before each answer, and the answer; of a text all is answer."""

    line: int
    turns: Sequence[tuple[str, str]]


class _NotAppending(Exception):
    """A chat template that rewrites what it wrote once more messages follow."""


def layout(stream: BinaryIO, filename: str) -> Layout:
    """The layout of a file that was validated; the stream begins anew.

    Raises:
        InvalidTrainingFile: it has no example.
    """
    found = training_data.layout_in(stream, filename)
    if found is None:
        raise InvalidTrainingFile("The file has no example of any known form.")
    return found


def divisible(layout: Layout) -> bool:
    """Whether a document may be cut anywhere; one with answers may not."""
    return layout is Layout.TEXT


def is_rendered(layout: Layout) -> bool:
    """Whether a chat template writes what a model reads of it."""
    return layout in (Layout.CHAT, Layout.ALPACA)


def template_for(layout: Layout, base_template: str | None) -> str | None:
    """The chat template that a model has after learning data of this layout: that of its base, if any."""
    return base_template or DEFAULT_CHAT_TEMPLATE if is_rendered(layout) else base_template


def encode(stream: BinaryIO, filename: str, reader: Reader) -> Iterator[Encoded | Flaw]:
    """A file from its beginning, in order, in bounded memory; flaws stand in place of what has them."""
    found = training_data.layout_in(stream, filename)
    if training_data.is_text(stream, filename):
        made = _encode_text(stream, reader)
    elif found is None:
        made = (flaw for _, flaw in training_data.examples(stream) if isinstance(flaw, Flaw))
    else:
        made = _encode_examples(_turned(stream, found, reader), found, reader)
    anything = False
    for one in made:
        anything = True
        yield one
    if not anything:
        yield Flaw("empty_file", "The file has nothing to learn. Send text, or examples.")


def _encode_text(stream: BinaryIO, reader: Reader) -> Iterator[Encoded | Flaw]:
    line, begins = 1, True
    for batch in batched(pieces(training_data.text_blocks(stream)), _length):
        texts = [piece for piece in batch if isinstance(piece, str)]
        for text, tokens in zip(texts, encoded(reader.tokenizer, texts), strict=True):
            if (index := _foreign(tokens, reader)) is not None:
                before = str(reader.tokenizer.decode(tokens[:index], skip_special_tokens=False))
                yield _outside(tokens[index], line + before.count("\n"), reader)
            elif tokens:
                yield Encoded(tokens, None, line, begins)
                begins = False
            line += text.count("\n")
        yield from (piece for piece in batch if isinstance(piece, Flaw))  # the last of all


def _turned(stream: BinaryIO, layout: Layout, reader: Reader) -> Iterator[_Example | Flaw]:
    eos = reader.tokenizer.id_to_token(reader.eos_token_id) or ""
    for line, record in training_data.examples(stream):
        if isinstance(record, Flaw):
            yield record
            continue
        try:
            yield _Example(line, _turns(record, layout, reader.chat_template or DEFAULT_CHAT_TEMPLATE, eos))
        except TemplateRefusal as refusal:
            said = f"The chat template of the model refuses these messages: {refusal}."
            yield Flaw("invalid_messages", said, line, "messages")
        except _NotAppending:
            said = "The chat template of the model rewrites earlier turns once others follow"
            why = "so nobody can tell which of its text is an answer. Choose a base with another template."
            yield Flaw("unsupported_chat_template", f"{said} (seen on line {line}), {why}")
            return


def _turns(record: Mapping[str, Any], layout: Layout, template: str, eos: str) -> list[tuple[str, str]]:
    match layout:
        case Layout.TEXT:
            return [("", record["text"])]
        case Layout.COMPLETION:
            return [(record["prompt"], record["completion"])]
        case Layout.ALPACA:
            asked = "\n\n".join(filter(None, (record["instruction"], record.get("input"))))
            messages = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": record["output"]},
            ]
            return _rendered(messages, [1], template, eos)
        case Layout.CHAT:
            given = record["messages"]
            messages = [{"role": _role(one["role"]), "content": one["content"]} for one in given]
            wanted = [
                index
                for index, one in enumerate(given)
                if one["role"] == "assistant" and one.get("weight", 1)
            ]
            return _rendered(messages, wanted, template, eos)


def _role(given: str) -> str:
    return "system" if given == "developer" else given  # templates know the older name


def _rendered(
    messages: Sequence[Mapping[str, str]], wanted: Iterable[int], template: str, eos: str
) -> list[tuple[str, str]]:
    """What the template writes before each wanted answer, since the one before, and for it."""
    turns, behind = [], ""
    for index in wanted:
        asked = chat_template.render(template, messages[:index], eos)
        answered = chat_template.render(template, messages[: index + 1], eos, answered=True)
        if not asked.startswith(behind) or not answered.startswith(asked):
            raise _NotAppending
        turns.append((asked[len(behind) :], answered[len(asked) :]))
        behind = answered
    return turns


def _encode_examples(
    examples: Iterable[_Example | Flaw], layout: Layout, reader: Reader
) -> Iterator[Encoded | Flaw]:
    for batch in batched(examples, _length):
        texts = [text for one in batch if isinstance(one, _Example) for turn in one.turns for text in turn]
        made = iter(encoded(reader.tokenizer, texts))
        for one in batch:
            if isinstance(one, Flaw):
                yield one
                continue
            turns = [(next(made), next(made)) for _ in one.turns]
            tokens = [token for turn in turns for part in turn for token in part]
            if (index := _foreign(tokens, reader)) is not None:
                yield _outside(tokens[index], one.line, reader)
            elif layout is Layout.TEXT:
                yield Encoded([*tokens, reader.eos_token_id], None, one.line)
            else:
                yield from _learnable(one.line, _ended(turns, reader), reader.block_size)


def _ended(
    turns: Sequence[tuple[list[int], list[int]]], reader: Reader
) -> Iterator[tuple[list[int], list[int]]]:
    """Each answer up to the token that ends it; what a template writes behind that belongs to what follows.

    A prompt without tokens is what one is for a model that begins a text: the end of the one before.
    """
    eos = reader.eos_token_id
    behind: list[int] = []
    for prompt, answer in turns:
        end = len(answer) - answer[::-1].index(eos) if eos in answer else 0
        if end and not str(reader.tokenizer.decode(answer[end:])).strip():
            yield behind + prompt or [eos], answer[:end]
            behind = answer[end:]
        else:
            yield behind + prompt or [eos], [*answer, eos]
            behind = []


def _learnable(
    line: int, turns: Iterable[tuple[list[int], list[int]]], block: int
) -> Iterator[Encoded | Flaw]:
    """Every answer once, with as much before it as fits the block.

    A conversation that does not fit becomes several, each beginning with the end of the one before.
    """
    tokens: list[int] = []
    learned: list[bool] = []
    done, cut = [], False
    for prompt, answer in turns:
        if len(answer) >= block:
            said = (
                f"An answer has {len(answer):,} tokens, with the one that ends it, but a block of {block:,} "
            )
            said += f"holds at most {block - 1:,} after one of its prompt. Shorten it or raise 'block_size'."
            yield Flaw("answer_too_long", said, line)
            return
        if tokens and len(tokens) + len(prompt) + len(answer) > block:
            done.append(Encoded(tokens, learned, line, cut=cut))
            learned = [False] * len(tokens)
        tokens = [*tokens, *prompt, *answer]
        learned = [*learned, *[False] * len(prompt), *[True] * len(answer)]
        if over := max(0, len(tokens) - block):
            tokens, learned, cut = tokens[over:], learned[over:], True
    yield from (*done, Encoded(tokens, learned, line, cut=cut))


def _length(part: str | _Example | Flaw) -> int:
    if isinstance(part, _Example):
        return sum(len(text) for turn in part.turns for text in turn)
    return len(part) if isinstance(part, str) else 0


def _foreign(tokens: Sequence[int], reader: Reader) -> int | None:
    """Where the first token stands that the model does not have."""
    if max(tokens, default=0) < reader.vocab_size:
        return None
    return next(index for index, token in enumerate(tokens) if token >= reader.vocab_size)


def _outside(token: int, line: int, reader: Reader) -> Flaw:
    said = f"The tokenizer makes a token {token} of it, but the model has only {reader.vocab_size:,} tokens."
    return Flaw("token_outside_vocabulary", f"{said} Choose a model and a tokenizer that fit.", line)
