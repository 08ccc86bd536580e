"""What `worker.quantize.evaluation` says of a model, against transformers and against what was put in."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from jobs.errors import ModelUnavailable, NumericalError
from tests.worker.conftest import CONTEXT, VOCAB, MakeEngine, ours, random_gpt2, write_folder
from worker.engine import Engine
from worker.model import GPT2
from worker.quantize import evaluation
from worker.quantize.evaluation import (
    ROWS,
    evaluate,
    report_apart,
    resident_megabytes,
    sample_text,
    throughput,
    windows,
)
from worker.rows import Rows


def text_of(length: int) -> list[int]:
    """Random tokens."""
    return torch.randint(1, VOCAB, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def guide_loss(model: GPT2LMHeadModel, tokens: list[int], context: int, stride: int) -> float:
    """The loop of Hugging Face's guide "Perplexity of fixed-length models"."""
    ids = torch.tensor([tokens])
    lost, count, previous_end = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + context, len(tokens))
        inputs = ids[:, begin:end]
        labels = inputs.clone()
        labels[:, : -(end - previous_end)] = -100
        with torch.no_grad():
            mean = model(inputs, labels=labels).loss.item()
        predicted = int((labels[:, 1:] != -100).sum())
        lost, count, previous_end = lost + mean * predicted, count + predicted, end
        if end == len(tokens):
            break
    return lost / count


@pytest.mark.parametrize(
    ("length", "context", "stride"),
    [(2, 64, 32), (64, 64, 32), (65, 64, 32), (300, 64, 1), (300, 64, 63), (700, CONTEXT, 128)],
)
def test_the_loss_is_that_of_the_guide(gpt2: GPT2LMHeadModel, length: int, context: int, stride: int) -> None:
    text = text_of(length)
    found = evaluate(ours(gpt2), text, context, stride)
    assert found.tokens == length - 1
    assert found.loss == pytest.approx(guide_loss(gpt2, text, context, stride), rel=1e-5)
    assert found.perplexity == pytest.approx(torch.tensor(found.loss).exp().item(), rel=1e-5)


@given(tokens=st.integers(2, 500), context=st.integers(2, 90), data=st.data())
def test_each_token_is_predicted_once_and_from_enough(tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context - 1))
    predicted = []
    for window in windows(tokens, context, stride):
        assert window.end - window.begin <= context
        assert window.begin == 0 or window.first - window.begin >= context - stride
        predicted += range(window.first, window.end)
    assert predicted == list(range(1, tokens))


def test_few_logits_are_held_at_a_time(gpt2: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = ours(gpt2), []
    forward = model.forward

    def watched(rows: Rows) -> Tensor:
        asked.append(len(rows.tokens))
        return forward(rows)

    monkeypatch.setattr(model, "forward", watched)
    evaluate(model, text_of(400), CONTEXT, 128)
    assert max(asked) == ROWS


@pytest.mark.parametrize(
    ("length", "context", "stride", "named"),
    [
        (1, 64, 32, "text"),
        (9, 1, 1, "context"),
        (9, CONTEXT + 1, 1, "context"),
        (9, 64, 64, "stride"),
        (9, 64, 0, "stride"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    gpt2: GPT2LMHeadModel, length: int, context: int, stride: int, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        evaluate(ours(gpt2), text_of(length), context, stride)


def test_a_loss_that_is_no_number_names_its_token(
    gpt2: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ours(gpt2)
    forward = model.forward

    def broken(rows: Rows) -> Tensor:
        logits = forward(rows).clone()  # the model's own may not be written
        if 40 in rows.positions:
            logits[rows.positions.index(40) - len(rows.tokens)] = torch.nan
        return logits

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(NumericalError, match="token 41"):
        evaluate(model, text_of(60), 64, 32)


def test_the_speed_is_all_tokens_over_the_median_time(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0])  # seconds: 4, 1 and 2
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert throughput(lambda slots: make_engine(slots=slots, token_budget=64), 3) == 3 * 128 / 2


def test_all_slots_write_at_once(gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    widths = []

    class Watched(GPT2):
        def best(self, rows: Rows) -> tuple[Tensor, Tensor]:
            widths.append(rows.decodes)
            return super().best(rows)

    model = ours(gpt2)
    model.__class__ = Watched
    throughput(lambda slots: Engine(model, tokenizer, slots, slots + ROWS), 5, runs=1)
    assert widths.count(5) > 100


def test_a_sample_is_the_same_each_time(make_engine: MakeEngine) -> None:
    first = sample_text(make_engine(), text_of(8))
    assert first
    assert first == sample_text(make_engine(), text_of(8))


def test_memory_that_is_written_is_resident() -> None:
    before = resident_megabytes()
    block = torch.ones(50_000_000, dtype=torch.uint8)
    assert 45 <= resident_megabytes() - before <= 60
    del block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A model in Hugging Face layout."""
    return write_folder(tmp_path_factory.mktemp("model"), random_gpt2(n_layer=1), tokenizer)


@pytest.fixture
def text(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a text to a file."""

    def write(content: str) -> Path:
        path = tmp_path / "text.txt"
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_a_fresh_process_fills_every_column(folder: Path, text: Callable[[str], Path]) -> None:
    written = text("All of it is the end, and the end is not the whole of it. " * 6)
    found = report_apart(folder, written)
    weights = (folder / "model.safetensors").stat().st_size
    assert found.method == "int8"
    assert found.path
    assert found.disk_megabytes == pytest.approx(weights / 1e6)
    assert 0 < found.validation_loss < 20
    assert found.perplexity > 1
    assert found.tokens > 200
    assert 50 < found.resident_megabytes < 2000
    assert found.tokens_per_second_32 > found.tokens_per_second_1 > 0
    assert found.sample


def test_what_a_fresh_process_cannot_do_is_said(folder: Path, text: Callable[[str], Path]) -> None:
    with pytest.raises(ModelUnavailable, match=r"no-such-folder.*there is no such folder"):
        report_apart(folder / "no-such-folder", text("Some text."))
    with pytest.raises(ModelUnavailable, match="fewer than two tokens"):
        report_apart(folder, text("A"))


def test_a_process_that_dies_is_said(
    folder: Path, text: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.sys, "executable", "/bin/false")
    with pytest.raises(ModelUnavailable, match=r"could not be judged: its process ended with 1\.$"):
        report_apart(folder, text("Some text."))
