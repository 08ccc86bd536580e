"""`python -m worker.quantize`, from its arguments to its table."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from tests.worker.conftest import random_gpt2, write_folder
from worker.loading import load
from worker.quantize import __main__ as command
from worker.quantize.evaluation import Report
from worker.quantize.table import Circumstances, markdown

TEXT = "The end of the tent is the end.\n" * 20


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", gpt2, tokenizer)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "some.txt"
    path.write_text(TEXT)
    return path


def quantize(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
    return command.main()


def test_one_method_is_written_to_the_folder_itself(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(monkeypatch, source, "--method", "int8", "--out", tmp_path / "new" / "out") == 0
    assert "writing int8" in capsys.readouterr().out
    assert load(str(tmp_path / "new" / "out"), None, "cpu").quantization == "int8"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_calibrated_scales_are_those_of_the_text(
    source: Path, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    methods = "int8_static,int4_weight"
    assert quantize(monkeypatch, source, "--method", methods, "--calibrate", text, "--out", out) == 0
    seen: dict[str, float] = {}

    def watch(name: str) -> None:
        def hook(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name] = max(seen.get(name, 0.0), inputs[0].abs().max().item())

        handles.append(gpt2.get_submodule(name).register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    watch("transformer.h.1.mlp.c_proj")
    watch("lm_head")
    with torch.inference_mode():
        for piece in torch.tensor(tokenizer.encode(TEXT).ids).split(gpt2.config.n_positions):
            gpt2(piece[None])
    for handle in handles:
        handle.remove()
    static = load_file(out / "int8_static" / "model.safetensors")
    for name, saved in (("transformer.h.1.mlp.c_proj", "h.1.mlp.c_proj"), ("lm_head", "wte")):
        assert static[f"{saved}.weight.input_scale"].item() == pytest.approx(seen[name] / 127, rel=1e-4)
    plain = tmp_path / "plain"
    assert quantize(monkeypatch, source, "--method", "int4_weight", "--out", plain) == 0
    name = "h.1.mlp.c_proj.weight.codes"
    fitted, nearest = (
        load_file(folder / "model.safetensors")[name] for folder in (out / "int4_weight", plain)
    )
    assert not torch.equal(fitted, nearest)


def a_report(method: str, **changes: float) -> Report:
    fields = {"validation_loss": 2.0, "tokens": 99, "perplexity": 7.389, "disk_megabytes": 4.0} | changes
    fields |= {
        "resident_megabytes": 300.0,
        "tokens_per_second_1": 10.0,
        "tokens_per_second_32": 50.0,
    } | changes
    return Report(method=method, path="torch", sample="once ``` upon", **fields)  # type: ignore[arg-type]


def test_the_table_compares_with_fp32_and_is_stored(
    source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"

    def measured(folder: Path, evaluated: Path, device: str) -> Report:
        method = load(str(folder), None, device).quantization
        assert evaluated == text
        if method == "fp32":
            return a_report(method)
        return a_report(method, validation_loss=2.01, disk_megabytes=1.0, tokens_per_second_32=250.0)

    monkeypatch.setattr(command, "report_apart", measured)
    assert quantize(monkeypatch, source, "--method", "int8,bf16", "--evaluate", text, "--out", out) == 0
    said = capsys.readouterr().out
    stored = json.loads((out / "quantization.json").read_text())
    assert [row["method"] for row in stored["methods"]] == ["fp32", "bf16", "int8"]
    assert stored["digest"] == load(str(source), "fp32", "cpu").digest
    page = (out / "quantization.md").read_text()
    assert page in said
    assert (
        "| int8 | torch | 2.0100 (+0.50%) | 7.389 | 1.00 (4.00 x) | 300 | 10.0 (1.00 x) | 250.0 (5.00 x) |"
        in page
    )
    assert "````text\nonce ``` upon\n````" in page
    assert sorted(path.name for path in out.iterdir()) == [
        "bf16",
        "int8",
        "quantization.json",
        "quantization.md",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "int3"], "The quantization 'int3' is unknown; use one of fp32, bf16, int8, "),
        (["--method", "int8_static"], "int8_static needs --calibrate FILE"),
        (["--method", "int8", "--calibrate", "TEXT"], "--calibrate is for int8_static and int4_weight only"),
        (["--method", "int8", "--evaluate", "nowhere.txt"], "nowhere.txt: it cannot be read: No such file"),
        (["--method", "int8", "--evaluate", "EMPTY"], "it is empty."),
        (["--method", "int8", "--evaluate", "BINARY"], "it is not UTF-8 text."),
        (["--method", "int4_weight,int8_static", "--calibrate", "SHORT"], "fewer than two tokens"),
        (["--method", "int8", "--evaluate", "SHORT"], "fewer than two tokens"),
        (["--method", "int8", "--out", "FULL"], "is there already; name a folder that is missing or empty"),
        (["--method", "int8", "--out", "TEXT"], "is there already"),
        (["--method", "int8", "--device", "cuda", "--evaluate", "TEXT"], "int8 runs on CPU only"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_sentence(
    source: Path, text: Path, tmp_path: Path, arguments: list[str], sentence: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    empty, binary, short = (tmp_path / name for name in ("empty.txt", "binary.txt", "short.txt"))
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe")
    short.write_text("a")
    places = {"TEXT": text, "EMPTY": empty, "BINARY": binary, "SHORT": short, "FULL": source}
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    given = [places.get(argument, argument) for argument in arguments]
    assert quantize(monkeypatch, source, *given, *out) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04"),
            "model.safetensors is not a",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "model_type"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    ],
    ids=["half a file", "not GPT-2", "no config"],
)
def test_a_source_that_cannot_be_read_is_one_sentence(
    tokenizer: Tokenizer, tmp_path: Path, spoil: object, sentence: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = write_folder(tmp_path / "tiny", random_gpt2(n_layer=1), tokenizer)
    assert callable(spoil)
    spoil(folder)
    capsys.readouterr()
    assert quantize(monkeypatch, folder, "--method", "int8", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith(f"{folder}: ")
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_is_quantized_already_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert quantize(monkeypatch, source, "--method", "int8", "--out", first) == 0
    assert quantize(monkeypatch, first, "--method", "int8", "--out", second) == 2
    assert "it is quantized already" in capsys.readouterr().err


def test_a_page_says_what_its_figures_hold_for() -> None:
    of = Circumstances(
        "m", "d1", "t.txt", "", "c.txt", "", "A Processor", 2, "cpu", "9.9", "2030-01-02 03:04"
    )
    page = markdown(of, [a_report("fp32")])
    for fact in (
        "99 tokens of `t.txt`",
        "calibrated on `c.txt`",
        "A Processor, 2 cores, cpu, torch 9.9",
        "d1",
    ):
        assert fact in page
