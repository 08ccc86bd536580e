"""Training data becomes the tokens that the model will meet, with what is learned marked."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jobs import pieces, rendering, training_data
from jobs.chat_template import render
from jobs.errors import InvalidTrainingFile
from jobs.lines import Flaw
from jobs.rendering import DEFAULT_CHAT_TEMPLATE, Encoded, Reader
from jobs.training_data import Layout
from tests.jobs.test_lines import Blocks, growth

ROOT = Path(__file__).parents[2]
GIVEN = ROOT.parent / "shared" / "data"
EOS = 0
HELLO = [{"role": "user", "content": "Hello, who are you?"}, {"role": "assistant", "content": "Nobody."}]


def byte_level(model: models.BPE) -> Tokenizer:
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Learned from a source with its indents and blank lines; token 0 ends a text."""
    made = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train([str(ROOT / "jobs" / "rendering.py"), str(ROOT / "README.md")], trainer)
    return made


def reader(tokenizer: Tokenizer, block: int = 256, template: str | None = DEFAULT_CHAT_TEMPLATE) -> Reader:
    return Reader(tokenizer, EOS, tokenizer.get_vocab_size(), template, block)


def jsonl(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def encoded(raw: bytes, reader: Reader, name: str = "data") -> list[Encoded]:
    found = list(rendering.encode(io.BytesIO(raw), name, reader))
    assert not [one for one in found if isinstance(one, Flaw)]
    return [one for one in found if isinstance(one, Encoded)]


def flaws(raw: bytes, reader: Reader, name: str = "data") -> list[tuple[str, int | None]]:
    found = rendering.encode(io.BytesIO(raw), name, reader)
    return [(one.code, one.line) for one in found if isinstance(one, Flaw)]


def taught(one: Encoded, tokenizer: Tokenizer) -> tuple[str, str]:
    """What is read only, and what is learned."""
    learned = one.learned or [True] * len(one.tokens)
    parts: dict[bool, list[int]] = {False: [], True: []}
    for token, is_learned in zip(one.tokens, learned, strict=True):
        parts[is_learned].append(token)
    return tuple(tokenizer.decode(parts[key], skip_special_tokens=False) for key in (False, True))  # type: ignore[return-value]


@pytest.mark.skipif(not GIVEN.is_dir(), reason="the files of GPT-2's tokenizer are not beside this checkout")
def test_tiny_shakespeare_has_the_published_number_of_tokens() -> None:
    gpt2 = byte_level(models.BPE.from_file(str(GIVEN / "encoder.json"), str(GIVEN / "vocab.bpe")))
    reading = Reader(gpt2, 50_256, 50_257, None, 1024)
    with (GIVEN / "tinyshakespeare.txt").open("rb") as stream:
        found = list(rendering.encode(stream, "tinyshakespeare.txt", reading))
        stream.seek(0)
        whole = gpt2.encode(stream.read().decode()).ids
    assert [token for one in found if isinstance(one, Encoded) for token in one.tokens] == whole
    assert len(whole) == 338_025
    assert len(found) > 1


SIGNS = "ab1.'s_ 中é\u0301😀" + " \n\t\r\u00a0\u3000\x1c" * 2


@pytest.mark.parametrize("trained", [True, False])
def test_a_text_in_pieces_has_the_tokens_of_the_whole(tokenizer: Tokenizer, trained: bool) -> None:
    if not trained and not GIVEN.is_dir():
        pytest.skip("the files of GPT-2's tokenizer are not beside this checkout")
    if not trained:
        tokenizer = byte_level(models.BPE.from_file(str(GIVEN / "encoder.json"), str(GIVEN / "vocab.bpe")))
    reading = Reader(tokenizer, EOS, 60_000, None, 64)

    @examples(max_examples=300, deadline=None)
    @given(st.text(st.sampled_from(SIGNS), min_size=20, max_size=200), st.integers(5, 30))
    def draw(text: str, block: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training_data, "_BLOCK", block)
            patch.setattr(pieces, "_NEAR", 7)
            patch.setattr(pieces, "_SLICE", block)
            found = encoded(text.encode(), reading, "a.txt")
            (example,) = encoded(jsonl({"text": f"a{text}"}), reading)
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        assert [token for one in found for token in one.tokens] == whole
        assert [one.begins for one in found] == [True] + [False] * (len(found) - 1)
        assert example.tokens == [*tokenizer.encode(f"a{text}", add_special_tokens=False).ids, EOS]

    draw()


def test_pieces_of_a_real_text_begin_on_their_lines(tokenizer: Tokenizer) -> None:
    text = "".join(f"Line {number} of it,  and\n\n    more.\n" for number in range(30_000))
    found = encoded(text.encode(), reader(tokenizer), "a.txt")
    assert len(found) > 2
    assert [token for one in found for token in one.tokens] == tokenizer.encode(text).ids
    read = ""
    for one in found:
        assert one.line == read.count("\n") + 1
        read += tokenizer.decode(one.tokens)


def test_a_text_without_blanks_is_cut_all_the_same(tokenizer: Tokenizer) -> None:
    text = "字" * 1_200_000
    found = encoded(text.encode(), reader(tokenizer), "a.txt")
    assert tokenizer.decode([token for one in found for token in one.tokens]) == text


def test_each_text_of_json_lines_ends(tokenizer: Tokenizer) -> None:
    found = encoded(jsonl({"text": "One."}, {"text": "Two.\n"}), reader(tokenizer))
    assert [tokenizer.decode(one.tokens, skip_special_tokens=False) for one in found] == [
        "One.<|endoftext|>",
        "Two.\n<|endoftext|>",
    ]
    assert [(one.learned, one.begins, one.line) for one in found] == [(None, True, 1), (None, True, 2)]


def test_a_completion_is_learned_and_its_prompt_is_not(tokenizer: Tokenizer) -> None:
    (one,) = encoded(jsonl({"prompt": "Say:", "completion": " yes"}), reader(tokenizer))
    assert taught(one, tokenizer) == ("Say:", " yes<|endoftext|>")
    apart = [tokenizer.encode(text).ids for text in ("Say:", " yes")]
    assert one.tokens == [*apart[0], *apart[1], EOS]


def test_without_a_prompt_a_completion_is_how_a_text_begins(tokenizer: Tokenizer) -> None:
    (one,) = encoded(jsonl({"prompt": "", "completion": "Once"}), reader(tokenizer))
    assert taught(one, tokenizer) == ("<|endoftext|>", "Once<|endoftext|>")


def test_an_instruction_and_its_input_are_what_a_user_says(tokenizer: Tokenizer) -> None:
    data = jsonl(
        {"instruction": "Add.", "input": "1 1", "output": "2"},
        {"instruction": "Hi", "input": "", "output": "Ho"},
    )
    with_input, without = encoded(data, reader(tokenizer))
    assert taught(with_input, tokenizer) == ("### User:\nAdd.\n\n1 1\n\n### Assistant:\n", "2<|endoftext|>")
    assert taught(without, tokenizer) == ("### User:\nHi\n\n### Assistant:\n", "Ho<|endoftext|>")


def test_a_prompt_has_the_tokens_that_a_chat_request_has(tokenizer: Tokenizer) -> None:
    (one,) = encoded(jsonl({"messages": HELLO}), reader(tokenizer))
    prompt = tokenizer.encode(render(DEFAULT_CHAT_TEMPLATE, HELLO[:1], "<|endoftext|>")).ids
    assert one.tokens[: len(prompt)] == prompt
    assert one.learned is not None
    assert one.learned.index(True) == len(prompt)


def test_every_answer_of_weight_is_learned_and_nothing_behind_the_last(tokenizer: Tokenizer) -> None:
    talk = [
        {"role": "developer", "content": "S"},
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": "Q2"},
        {"role": "assistant", "content": "A2", "weight": 0},
        {"role": "user", "content": "Q3"},
        {"role": "assistant", "content": "A3", "weight": 1},
        {"role": "user", "content": "Q4"},
    ]
    (one,) = encoded(jsonl({"messages": talk}), reader(tokenizer))
    read, learned = taught(one, tokenizer)
    assert learned == "A1<|endoftext|>A3<|endoftext|>"
    assert read.startswith("### System:\nS\n\n### User:\nQ1\n\n### Assistant:\n### User:\nQ2")
    assert read.endswith("A2<|endoftext|>### User:\nQ3\n\n### Assistant:\n")


CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_conversation_has_an_end(tokenizer: Tokenizer) -> None:
    talk = {"messages": HELLO * 128}
    assert encoded(jsonl(talk), reader(tokenizer))
    assert flaws(jsonl({"messages": HELLO * 129}), reader(tokenizer)) == [("array_above_max_length", 1)]


def test_what_a_template_writes_behind_the_end_of_an_answer_is_not_learned(tokenizer: Tokenizer) -> None:
    talk = [*HELLO, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    (one,) = encoded(jsonl({"messages": talk}), reader(tokenizer, template=CHATML))
    read, learned = taught(one, tokenizer)
    assert learned == "Nobody.<|endoftext|>A<|endoftext|>"
    assert read.endswith("<|assistant|>\n<|user|>Q<|endoftext|>\n<|assistant|>")


def test_an_answer_ends_also_where_the_template_does_not_end_it(tokenizer: Tokenizer) -> None:
    bare = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    (one,) = encoded(jsonl({"messages": HELLO}), reader(tokenizer, template=bare))
    assert taught(one, tokenizer)[1] == "Nobody.|<|endoftext|>"


def test_a_template_that_rewrites_earlier_turns_is_one_error(tokenizer: Tokenizer) -> None:
    last = "{% for m in messages %}{{ m.content if loop.last else '...' }}|{% endfor %}"
    found = list(
        rendering.encode(io.BytesIO(jsonl(*[{"messages": HELLO}] * 3)), "a", reader(tokenizer, template=last))
    )
    (flaw,) = found
    assert isinstance(flaw, Flaw)
    assert (flaw.code, flaw.line) == ("unsupported_chat_template", None)
    assert "rewrites earlier turns" in flaw.message


def test_messages_that_the_template_refuses_are_an_error_of_their_line(tokenizer: Tokenizer) -> None:
    picky = "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}"
    refused = {"messages": [{"role": "user", "content": "no"}, {"role": "assistant", "content": "a"}]}
    found = list(
        rendering.encode(
            io.BytesIO(jsonl({"messages": HELLO}, refused)), "a", reader(tokenizer, template=picky)
        )
    )
    assert isinstance(found[1], Flaw)
    assert (found[1].code, found[1].line) == ("invalid_messages", 2)
    assert "not that" in found[1].message


def test_an_answer_that_does_not_fit_the_block_names_its_line_and_both_numbers(tokenizer: Tokenizer) -> None:
    data = jsonl({"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "a b c " * 20})
    _, flaw = rendering.encode(io.BytesIO(data), "a", reader(tokenizer, block=16))
    assert isinstance(flaw, Flaw)
    assert (flaw.code, flaw.line) == ("answer_too_long", 2)
    count = len(tokenizer.encode("a b c " * 20).ids) + 1
    assert f"{count} tokens" in flaw.message
    assert "at most 15" in flaw.message


@pytest.mark.parametrize("spare", [0, 1])
def test_an_answer_that_just_fits_is_learned_whole(tokenizer: Tokenizer, spare: int) -> None:
    answer = " name" * 5
    length = len(tokenizer.encode(answer).ids) + 1
    data = jsonl({"prompt": "the prompt", "completion": answer})
    if spare:
        (one,) = encoded(data, reader(tokenizer, block=length + spare))
        assert (len(one.tokens), one.cut) == (length + 1, True)
        assert taught(one, tokenizer)[1] == answer + "<|endoftext|>"
    else:
        assert flaws(data, reader(tokenizer, block=length)) == [("answer_too_long", 1)]


def test_of_a_prompt_that_does_not_fit_the_end_is_kept(tokenizer: Tokenizer) -> None:
    data = jsonl({"prompt": "one two three four five six seven eight:", "completion": " nine"})
    (whole,) = encoded(data, reader(tokenizer))
    (cut,) = encoded(data, reader(tokenizer, block=16))
    assert (whole.cut, cut.cut) == (False, True)
    assert cut.tokens == whole.tokens[-16:]
    assert cut.learned == whole.learned[-16:] if whole.learned else False


def test_a_long_conversation_is_learned_in_parts_each_answer_once(tokenizer: Tokenizer) -> None:
    talk = []
    for number in range(9):
        talk += [{"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": f"A{number}"}]
    parts = encoded(jsonl({"messages": talk}), reader(tokenizer, block=48))
    assert len(parts) > 1
    assert all(len(one.tokens) <= 48 and one.line == 1 for one in parts)
    learned = "".join(taught(one, tokenizer)[1] for one in parts)
    assert learned == "".join(f"A{number}<|endoftext|>" for number in range(9))
    assert [one.cut for one in parts] == [False] + [True] * (len(parts) - 1)


def test_a_token_that_the_model_does_not_have_is_an_error_of_its_line(tokenizer: Tokenizer) -> None:
    small = Reader(tokenizer, EOS, 260, DEFAULT_CHAT_TEMPLATE, 64)
    assert flaws(b"~\n~\nreturn\n", small, "a.txt") == [("token_outside_vocabulary", 3)]
    assert flaws(jsonl({"text": "~"}, {"text": "return"}), small) == [("token_outside_vocabulary", 2)]


@pytest.mark.parametrize("raw", [b"", b"\n \n"])
def test_a_file_of_nothing_is_an_error(tokenizer: Tokenizer, raw: bytes) -> None:
    assert flaws(raw, reader(tokenizer), "a.jsonl") == [("empty_file", None)]
    assert flaws(b"", reader(tokenizer), "a.txt") == [("empty_file", None)]


def test_flaws_stand_between_what_is_right(tokenizer: Tokenizer) -> None:
    data = jsonl({"text": 1, "messages": 2}) + b"{\n" + jsonl({"text": "a"}, {"messages": HELLO})
    found = list(rendering.encode(io.BytesIO(data), "a", reader(tokenizer)))
    assert [one.code if isinstance(one, Flaw) else one.line for one in found] == [
        "invalid_type",
        "invalid_json_line",
        "invalid_type",
        4,
    ]  # the first example decides that these are conversations


def test_the_first_example_decides_the_layout() -> None:
    assert rendering.layout(io.BytesIO(b"once upon"), "a") is Layout.TEXT
    assert rendering.layout(io.BytesIO(jsonl({"prompt": "", "completion": "a"})), "a") is Layout.COMPLETION
    array = io.BytesIO(json.dumps([{"instruction": "a", "output": "b"}]).encode())
    assert rendering.layout(array, "a") is Layout.ALPACA
    assert array.tell() == 0
    with pytest.raises(InvalidTrainingFile, match="no example"):
        rendering.layout(io.BytesIO(b"\n"), "a.jsonl")


def test_who_learns_to_answer_gets_a_template() -> None:
    assert rendering.template_for(Layout.ALPACA, None) == DEFAULT_CHAT_TEMPLATE
    assert rendering.template_for(Layout.CHAT, CHATML) == CHATML
    assert rendering.template_for(Layout.TEXT, None) is None
    assert [rendering.divisible(one) for one in Layout] == [True, False, False, False]


def test_the_default_template_refuses_roles_it_does_not_know(tokenizer: Tokenizer) -> None:
    with pytest.raises(Exception, match="'system', 'user' or 'assistant'"):
        render(DEFAULT_CHAT_TEMPLATE, [{"role": "tool", "content": ""}], "")


def test_large_data_is_encoded_in_little_memory(tokenizer: Tokenizer) -> None:
    def bomb(begin: bytes, block: bytes, times: int) -> Iterator[Encoded | Flaw]:
        return rendering.encode(Rewound(begin, block, times), "a", reader(tokenizer))

    for _ in bomb(b"", b"word and\n" * 20_000, 1):  # what the tokenizer keeps for good
        pass
    assert growth(bomb(b"", b"word and " * 20_000, 30)) < 150  # 5 MB, which whole would take half a gigabyte
    assert growth(bomb(b'{"text":"', b"x" * 65_536, 2_000)) < 60
    assert growth(bomb(jsonl({"text": "1 " * 1_900_000}), b"", 0)) < 300  # 3.8 MB, which at once take 700
    line = jsonl({"prompt": "word " * 20, "completion": "and " * 20}) * 500
    assert growth(bomb(b"", line, 15)) < 100


class Rewound(Blocks):
    """A large file that can begin again."""

    def __init__(self, begin: bytes, block: bytes, times: int) -> None:
        super().__init__(block, times)
        self._begin, self._first, self._times = begin, begin, times

    def read(self, size: int = -1) -> bytes:
        begin, self._begin = self._begin, b""
        return begin or super().read(size)

    def seek(self, _offset: int, _whence: int = 0) -> int:
        self._begin, self._left = self._first, self._times
        return 0
