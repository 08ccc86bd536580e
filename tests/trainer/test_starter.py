"""The starter model: what it learns from, how it is judged, and what lies in the repository."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from trainer import tokenizing
from trainer.starter import corpus, evaluate, export, network
from trainer.starter.corpus import Document

SHIPPED = Path(__file__).parents[2] / "models" / "starter"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def library() -> list[Document]:
    return corpus.read_documents()


@pytest.fixture(scope="module")
def learned(library: list[Document]) -> Tokenizer:
    return tokenizing.learn((document.text for document in library[:40]), 600)


def test_no_file_is_both_learned_from_and_held_out(library: list[Document]) -> None:
    parts = corpus.split(library, seed=1)
    names = [{document.name for document in part} for part in (parts.train, parts.held_out)]
    assert not names[0] & names[1]
    assert len(names[0]) + len(names[1]) == len(library)
    assert len(names[1]) == round(corpus.HELD_OUT * len(library))


def test_the_same_seed_holds_out_the_same_files(library: list[Document]) -> None:
    assert corpus.split(library, seed=1) == corpus.split(library, seed=1)
    assert corpus.split(library, seed=1) != corpus.split(library, seed=2)


def test_tests_and_tables_are_left_out(tmp_path: Path) -> None:
    wanted = ["ast.py", "json/decoder.py", "unittest/case.py"]
    unwanted = [
        "test/test_ast.py",
        "lib2to3/tests/test_util.py",
        "idlelib/idle_test/test_run.py",
        "encodings/cp1252.py",
        "pydoc_data/topics.py",
        "site-packages/requests/api.py",
        "_sysconfigdata__linux.py",
        "notes.txt",
    ]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "empty.py").write_text("\n")
    assert [document.name for document in corpus.read_documents(tmp_path)] == wanted


@settings(deadline=None, max_examples=200)
@given(text=st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_comes_back_from_its_tokens(learned: Tokenizer, text: str) -> None:
    ids = learned.encode(text, add_special_tokens=False).ids
    assert learned.decode(ids, skip_special_tokens=False) == text


def test_numbers_are_spelled_digit_by_digit() -> None:
    often = tokenizing.learn(iter(["x = 20240131\n"] * 50), 300)
    tokens = often.encode("x = 20240131").tokens
    assert [token.lstrip("Ġ") for token in tokens if token.strip("Ġ").isdigit()] == list("20240131")


def test_documents_are_parted_by_the_end_of_text(learned: Tokenizer) -> None:
    end = evaluate.END_OF_TEXT
    stream = evaluate.encode(learned, [Document("a.py", "a = 1\n"), Document("b.py", "b = 2\n")])
    assert learned.decode(stream.tolist(), skip_special_tokens=False).split(tokenizing.END_OF_TEXT) == [
        "",
        "a = 1\n",
        "b = 2\n",
        "",
    ]
    assert stream[0] == stream[-1] == end


def tiny(**changes: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2} | changes
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()


def test_held_out_loss_counts_every_token_once() -> None:
    model = tiny()
    stream = torch.arange(100) % 64  # three blocks of 32 and a rest of 3
    blocks = [stream[start : start + 33] for start in (0, 32, 64, 96)]
    with torch.no_grad():
        logits = [model(input_ids=block[None, :-1]).logits[0] for block in blocks]
    sums = [
        functional.cross_entropy(found, block[1:], reduction="sum").item()
        for found, block in zip(logits, blocks, strict=True)
    ]
    assert network.held_out_loss(model, stream, context=32, batch=2) == pytest.approx(sum(sums) / 99)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("\ndef f(x):\n    y = x + 1\n    return y\nclass", True),
        ("\ndef f(x):\n    y = x + 1\n    return (y\n", False),
        ("\ndef f(x):\n    return x\n", False),  # two lines
        ("\ndef f(x):\n\n\n    return x\n", False),  # two lines that are not blank
        ("\ndef f(x):\n    y = x\n    return y", False),  # the third line may be cut off
    ],
)
def test_a_sample_counts_from_three_whole_lines_that_parse(text: str, accepted: bool) -> None:
    assert evaluate.parses(text) is accepted


def test_an_exported_fine_tune_becomes_a_starter_and_leaves_nothing_else(
    tmp_path: Path, learned: Tokenizer
) -> None:
    source, folder = tmp_path / "exported", tmp_path / "models" / "starter"
    model = tiny(vocab_size=600)
    model.save_pretrained(source)
    learned.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text("{}")
    parts = corpus.Corpus([Document("a.py", "a = 1\n")], [Document("b.py", "b = 22\n")])
    job = {
        "seed": 1,
        "hyperparameters": {"learning_rate": 0.003, "lr_scheduler_type": "linear"},
        "progress": {"step": 5},
        "trained_tokens": 40,
        "created_at": 100,
        "finished_at": 160,
    }
    facts = export.facts_of(parts, learned, job, model.num_parameters())
    assert (facts.files, facts.bytes, facts.steps, facts.seconds) == ((1, 1), (6, 7), 5, 60)
    assert facts.optimizer == "AdamW (rate 0.003), linear decay"
    for _ in range(2):  # the second one replaces the first
        export.write(source, facts, folder)
    assert export.read_facts(folder) == facts
    assert [path.name for path in folder.parent.iterdir()] == ["starter"]
    loaded = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(loaded.transformer.wte.weight, model.transformer.wte.weight.bfloat16().float())


def test_the_shipped_model_is_small_and_whole() -> None:
    weights = SHIPPED / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    assert weights.stat().st_mode & 0o004, "containers run as another user"
    model = GPT2LMHeadModel.from_pretrained(SHIPPED)
    assert model.dtype == torch.bfloat16
    assert model.config.n_positions == evaluate.CONTEXT
    assert model.num_parameters() == export.read_facts(SHIPPED).parameters
    assert not (SHIPPED / "README.md").read_text().count("${")


@pytest.mark.parametrize(
    "load",
    [
        lambda: AutoTokenizer.from_pretrained(SHIPPED),
        lambda: GPT2TokenizerFast.from_pretrained(SHIPPED),
    ],
    ids=["AutoTokenizer", "GPT2TokenizerFast"],
)
def test_the_shipped_tokenizer_is_the_models_own(load: Callable[[], GPT2TokenizerFast]) -> None:
    plain = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    config = GPT2LMHeadModel.config_class.from_pretrained(SHIPPED)
    tokenizer = load()
    text = "def f(x):\n    return  12345 + x  # é 漢 😀\n\n\n        y\t= '\\d'\n"
    assert tokenizer(text)["input_ids"] == plain.encode(text).ids
    assert len(tokenizer) == plain.get_vocab_size() == config.vocab_size == 4096
    assert tokenizer.eos_token_id == config.eos_token_id == config.bos_token_id == evaluate.END_OF_TEXT


def test_the_shipped_card_describes_the_shipped_weights() -> None:
    facts, card = export.read_facts(SHIPPED), (SHIPPED / "README.md").read_text()
    assert f"{facts.tokens_seen:,} (" in card
    assert f"{facts.steps:,} steps" in card
    for command in facts.commands:
        assert command in card
