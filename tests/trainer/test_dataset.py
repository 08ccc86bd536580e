import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from jobs import plan, rendering
from jobs.errors import InvalidTrainingFile
from jobs.rendering import Reader
from jobs.training_data import Layout
from tests.trainer.children import data_of, prose
from trainer import tokenizing
from trainer.cross_entropy import LEFT_OUT
from trainer.dataset import Corpus, Rows, collate, prepare, split

BLOCK = 32


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizing.learn(iter([prose()]), 300)


@pytest.fixture
def reader(tokenizer: Tokenizer) -> Reader:
    return Reader(tokenizer, 0, 300, rendering.template_for(Layout.CHAT, None), BLOCK)


def corpus_of(tmp_path: Path, reader: Reader, text: str, name: str) -> Corpus:
    return prepare(
        data_of(tmp_path / name, text), reader, tmp_path / "data", InvalidTrainingFile, lambda: None
    )


def none(count: int) -> int:
    return 0


def test_a_text_is_cut_into_rows_without_losing_or_padding_a_token(tmp_path: Path, reader: Reader) -> None:
    text = prose(40)
    corpus = corpus_of(tmp_path, reader, text, "a.txt")
    rows, _ = split(corpus, BLOCK, True, 0, none)
    tokens = reader.tokenizer.encode(text).ids
    assert torch.cat([row["input_ids"] for row in rows]).tolist() == tokens
    assert torch.cat([row["labels"] for row in rows]).tolist() == [*tokens[1:], LEFT_OUT]
    assert {len(row["input_ids"]) for row in list(rows)[:-1]} == {BLOCK}
    assert rows[1]["position_ids"].tolist() == list(range(BLOCK))


def test_documents_of_one_row_begin_at_position_zero_and_predict_nothing_of_the_next(
    tmp_path: Path, reader: Reader
) -> None:
    texts = [prose(1, seed) for seed in range(6)]
    corpus = corpus_of(
        tmp_path, reader, "".join(json.dumps({"text": one}) + "\n" for one in texts), "a.jsonl"
    )
    rows, _ = split(corpus, BLOCK, True, 0, none)
    documents = [[*reader.tokenizer.encode(text).ids, 0] for text in texts]
    assert torch.cat([row["input_ids"] for row in rows]).tolist() == list(chain(*documents))
    expected = [label for document in documents for label in [*document[1:], LEFT_OUT]]
    assert torch.cat([row["labels"] for row in rows]).tolist() == expected
    first = len(documents[0])
    assert rows[0]["position_ids"][first - 1 : first + 2].tolist() == [first - 1, 0, 1]


def test_without_packing_every_document_has_rows_of_its_own(tmp_path: Path, reader: Reader) -> None:
    lines = "".join(json.dumps({"text": prose(1, seed)}) + "\n" for seed in range(6))
    rows, _ = split(corpus_of(tmp_path, reader, lines, "a.jsonl"), BLOCK, False, 0, none)
    assert all(row["position_ids"].tolist() == list(range(len(row["input_ids"]))) for row in rows)
    assert len(rows) >= 6


def test_of_examples_only_the_answers_are_learned(tmp_path: Path, reader: Reader) -> None:
    lines = [{"prompt": "the mill", "completion": " turns."}, {"prompt": "the gate", "completion": " holds."}]
    corpus = corpus_of(tmp_path, reader, "".join(json.dumps(one) + "\n" for one in lines), "a.jsonl")
    rows, _ = split(corpus, BLOCK, True, 0, none)
    (row,) = rows
    learned = row["labels"][row["labels"] != LEFT_OUT].tolist()
    answers = [[*reader.tokenizer.encode(one["completion"]).ids, 0] for one in lines]
    assert sorted([learned[: len(answers[0])], learned[len(answers[0]) :]]) == sorted(answers)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path, reader: Reader) -> None:
    corpus = corpus_of(tmp_path, reader, prose(400), "a.txt")
    rows, held_out = split(corpus, BLOCK, True, 7, plan.held_out)
    assert len(held_out) == plan.held_out(len(rows) + len(held_out)) > 0
    assert not {tuple(row) for row in rows.rows} & {tuple(row) for row in held_out.rows}
    assert split(corpus, BLOCK, True, 7, plan.held_out)[1].rows == held_out.rows  # the seed decides
    assert split(corpus, BLOCK, True, 8, plan.held_out)[1].rows != held_out.rows


def test_a_pass_is_padded_to_its_longest_row_and_counts_no_padding(tmp_path: Path, reader: Reader) -> None:
    lines = "".join(json.dumps({"text": prose(n, n)}) + "\n" for n in (1, 2))
    corpus = corpus_of(tmp_path, reader, lines, "a.jsonl")
    rows = Rows(corpus, BLOCK, [[0], [1]])
    batch = collate([rows[0], rows[1]])
    short, long = corpus.lengths.tolist()
    assert batch["input_ids"].shape == (2, long)
    assert batch["real"] == short + long
    assert batch["position_ids"][0].tolist() == [*range(short), *range(long - short)]
    assert batch["labels"][0, short:].tolist() == [LEFT_OUT] * (long - short)


def test_a_file_that_was_tokenized_already_is_not_read_again(tmp_path: Path, reader: Reader) -> None:
    before = corpus_of(tmp_path, reader, prose(20), "a.txt")
    written = (tmp_path / "data" / "tokens.bin").stat().st_mtime_ns
    again = corpus_of(tmp_path, reader, prose(20), "a.txt")
    assert (tmp_path / "data" / "tokens.bin").stat().st_mtime_ns == written
    other = corpus_of(tmp_path, reader, prose(21), "a.txt")
    assert again.tokens.tolist() == before.tokens.tolist() != other.tokens.tolist()


def test_flaws_are_named_with_their_lines(tmp_path: Path, reader: Reader) -> None:
    lines = ['{"prompt": "a", "completion": "b"}', '{"prompt": "a"}', "no JSON"]
    with pytest.raises(InvalidTrainingFile) as raised:
        corpus_of(tmp_path, reader, "\n".join(lines), "a.jsonl")
    assert "Line 2:" in str(raised.value)
    assert "Line 3:" in str(raised.value)
