"""The starter model: what it learns from, that it learns and resumes, and what lies in the repository."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2LMHeadModel, GPT2TokenizerFast

from trainer.starter import corpus, evaluate, export, network, optimizer, train
from trainer.starter import tokenizer as bpe
from trainer.starter.blocks import Blocks
from trainer.starter.corpus import Document

SHIPPED = Path(__file__).parents[2] / "models" / "starter"
FOREVER = optimizer.Schedule(end=float("inf"), decay=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def library() -> list[Document]:
    return corpus.read_documents()


@pytest.fixture(scope="module")
def learned(library: list[Document]) -> Tokenizer:
    return bpe.learn([document.text for document in library[:40]], vocab_size=600)


def tiny_run() -> train.Run:
    torch.manual_seed(0)
    model = network.make(vocab_size=64, context=32, width=32, layers=2, heads=2)
    return train.Run(model, optimizer.make(model))


def counting_blocks() -> Blocks:
    """A stream that says the numbers from 0 to 63 over and over."""
    return Blocks(torch.arange(4_000) % 64, context=32, batch=4, seed=1)


def steps(run: train.Run, count: int) -> list[float]:
    return list(itertools.islice(train.train(run, counting_blocks(), FOREVER, compiled=False), count))


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
    often = bpe.learn(["x = 20240131\n"] * 50, vocab_size=300)
    tokens = often.encode("x = 20240131").tokens
    assert [token.lstrip("Ġ") for token in tokens if token.strip("Ġ").isdigit()] == list("20240131")


def test_documents_are_parted_by_the_end_of_text(learned: Tokenizer) -> None:
    end = bpe.end_of_text(learned)
    stream = bpe.encode(learned, [Document("a.py", "a = 1\n"), Document("b.py", "b = 2\n")])
    assert learned.decode(stream.tolist(), skip_special_tokens=False).split(bpe.END_OF_TEXT) == [
        "",
        "a = 1\n",
        "b = 2\n",
        "",
    ]
    assert stream[0] == stream[-1] == end


def test_an_epoch_shows_every_block_once_and_the_next_one_cuts_elsewhere() -> None:
    blocks = Blocks(torch.arange(1_000), context=10, batch=7, seed=1)
    epochs = [
        [
            int(row[0])
            for step in range(blocks.steps_per_epoch)
            for row in blocks.of_step(epoch * blocks.steps_per_epoch + step)
        ]
        for epoch in (0, 1)
    ]
    for starts in epochs:
        assert len(set(starts)) == len(starts)
        assert len({start % 10 for start in starts}) == 1
    assert epochs[0][0] % 10 != epochs[1][0] % 10


def test_sliced_attention_equals_the_usual_one() -> None:
    torch.manual_seed(0)
    model = network.make(vocab_size=64, context=300, width=32, layers=2, heads=2).eval()
    ids = torch.randint(64, (2, 300))  # two whole slices and a part
    sliced = model(input_ids=ids).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(sliced, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_held_out_loss_counts_every_token_once() -> None:
    model = tiny_run().model.eval()
    stream = torch.arange(100) % 64  # three blocks of 32 and a rest of 3
    blocks = [stream[start : start + 33] for start in (0, 32, 64, 96)]
    sums = [network.loss(model, block[None]).item() * (len(block) - 1) for block in blocks]
    assert network.held_out_loss(model, stream, context=32, batch=2) == pytest.approx(sum(sums) / 99)


def test_training_lowers_the_loss() -> None:
    losses = steps(tiny_run(), 80)
    assert losses[-1] < 0.6 * losses[0]


def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    whole = tiny_run()
    expected = steps(whole, 12)

    first = tiny_run()
    steps(first, 7)
    first.save(tmp_path)
    second = tiny_run()
    second.load(tmp_path)
    assert second.step == 7
    assert steps(second, 5) == pytest.approx(expected[7:], rel=1e-5)


@pytest.mark.parametrize(
    ("now", "factor"), [(0.0, 1.0), (60.0, 1.0), (80.0, 0.5), (100.0, 0.0), (500.0, 0.0)]
)
def test_the_rate_falls_to_zero_by_the_end_whatever_the_speed(now: float, factor: float) -> None:
    schedule = optimizer.Schedule(end=100.0, decay=40.0)
    assert schedule.factor(step=10_000, now=now) == pytest.approx(factor)


def test_a_run_ends_on_time_after_a_long_pause() -> None:
    times = iter([0.0, 1.0, 2.0, 900.0])
    schedule = optimizer.Schedule(end=10.0, decay=0.0)
    run = tiny_run()
    list(train.train(run, counting_blocks(), schedule, clock=lambda: next(times), compiled=False))
    assert run.step == 2


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


def test_an_export_loads_again_and_leaves_nothing_else(tmp_path: Path, learned: Tokenizer) -> None:
    model = network.make(vocab_size=600, context=32, width=32, layers=1, heads=2)
    facts = export.Facts("3.11", "a machine", 1, (2, 1), (20, 10), (8, 4), 100, 5, 40, 60.0, ("train",))
    folder = tmp_path / "models" / "starter"
    for _ in range(2):  # the second one replaces the first
        export.write(model, learned, facts, folder)
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
    assert model.config.n_positions == bpe.CONTEXT
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
    plain = bpe.load(SHIPPED)
    config = GPT2LMHeadModel.config_class.from_pretrained(SHIPPED)
    tokenizer = load()
    text = "def f(x):\n    return  12345 + x  # é 漢 😀\n\n\n        y\t= '\\d'\n"
    assert tokenizer(text)["input_ids"] == plain.encode(text).ids
    assert len(tokenizer) == plain.get_vocab_size() == config.vocab_size == bpe.VOCAB_SIZE
    assert tokenizer.eos_token_id == config.eos_token_id == config.bos_token_id == bpe.end_of_text(plain)


def test_the_shipped_card_describes_the_shipped_weights() -> None:
    facts, card = export.read_facts(SHIPPED), (SHIPPED / "README.md").read_text()
    assert f"{facts.tokens_seen:,} (" in card
    assert f"{facts.steps:,} steps" in card
    for command in facts.commands:
        assert command in card
