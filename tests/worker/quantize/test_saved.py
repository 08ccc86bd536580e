"""A quantized folder is the same model again, and is believed only as far as it was checked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.errors import ModelUnavailable
from tests.worker.conftest import random_gpt2, write_folder
from worker.checkpoint import read_architecture, read_json, read_tensors, weight_files
from worker.loading import describe, load
from worker.quantize.codes import quantized_weights
from worker.quantize.methods import METHODS, Method
from worker.quantize.saved import Saved, read_weights, save
from worker.quantize.weights import Weight


def quantize(source: Path, out: Path, method: Method) -> dict[str, Weight]:
    architecture = read_architecture(read_json(source / "config.json"))
    tensors = dict(read_tensors(weight_files(source), architecture))
    ranges = {name.removesuffix(".weight"): 5.0 for name in tensors}
    weights = quantized_weights(architecture, tensors, method, ranges)
    save(source, out, weights, Saved(method=method, source="a digest"))
    return weights


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("models") / "tiny", gpt2, tokenizer)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture(scope="session")
def saved(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Method, Path]:
    """A folder of each method."""
    place = tmp_path_factory.mktemp("quantized")
    for method in METHODS:
        quantize(source, place / method, method)
    return {method: place / method for method in METHODS}


@pytest.fixture
def static(saved: dict[Method, Path], tmp_path: Path) -> Path:
    """An int8_static one that a test may spoil."""
    return Path(shutil.copytree(saved["int8_static"], tmp_path / "static"))


def equal(one: Weight, other: Weight) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    same = torch.equal(one.codes, other.codes) and torch.equal(one.scales, other.scales)
    scales = (getattr(weight, "input_scale", None) for weight in (one, other))
    return type(one) is type(other) and same and next(scales) == pytest.approx(next(scales))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_saved_is_read_again(
    tokenizer: Tokenizer, tmp_path: Path, method: Method, tied: bool
) -> None:
    source = write_folder(tmp_path / "source", random_gpt2(tie_word_embeddings=tied, n_layer=1), tokenizer)
    weights = quantize(source, tmp_path / "out", method)
    architecture = read_architecture(read_json(source / "config.json"))
    read = read_weights(tmp_path / "out" / "model.safetensors", architecture, method)
    assert set(read) == set(weights)
    assert all(equal(read[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_loads_by_itself(source: Path, saved: dict[Method, Path], method: Method) -> None:
    model, original = load(str(saved[method]), None, "cpu"), load(str(source), "fp32", "cpu")
    assert (model.quantization, model.chat_template) == (method, "{{ messages }}")
    assert (model.parameters, model.eos_token_ids) == (original.parameters, original.eos_token_ids)
    assert model.tokenizer_json == original.tokenizer_json
    assert model.digest == describe(str(saved[method]), method, "cpu").digest != original.digest
    assert (saved[method] / "model.safetensors").stat().st_size == pytest.approx(model.weight_bytes, rel=0.1)


def test_the_folder_names_the_model_it_came_from(saved: dict[Method, Path]) -> None:
    config = json.loads((saved["int8"] / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "penstock",
        "version": 1,
        "method": "int8",
        "source": "a digest",
        "calibration": None,
    }


def test_another_method_than_the_saved_one_is_refused(saved: dict[Method, Path]) -> None:
    with pytest.raises(ModelUnavailable, match="saved as int8 and cannot become int4_weight"):
        load(str(saved["int8"]), "int4_weight", "cpu")


def test_nothing_is_left_of_a_save_that_failed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config\.json"):
        save(tmp_path / "nowhere", tmp_path / "out", {}, Saved(method="int8", source=""))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "tensor", "named"),
    [
        ("wte.weight.scales", torch.full((300,), torch.nan), "wte.weight.scales holds NaN"),
        ("wte.weight.scales", torch.full((300,), -0.1), "wte.weight.scales holds a scale that is not above"),
        ("wte.weight.scales", torch.ones(299), "wte.weight.scales has shape [299]"),
        ("wte.weight.scales", torch.ones(300).half(), "wte.weight.scales is torch.float16"),
        ("wte.weight.codes", torch.full((300, 64), -128, dtype=torch.int8), "wte.weight.codes holds -128"),
        ("wte.weight.codes", torch.ones(300, 64), "wte.weight.codes is torch.float32"),
        ("wte.weight.codes", None, "lack the tensor wte.weight.codes"),
        ("wte.weight", torch.ones(300, 64), "a tensor wte.weight,"),
        ("h.0.mlp.c_fc.weight.input_scale", torch.tensor([0.0]), "input_scale holds a scale that is not"),
        ("h.0.mlp.c_fc.weight.input_scale", torch.tensor([torch.inf]), "input_scale holds NaN or infinity"),
        ("h.0.mlp.c_fc.weight.input_scale", None, "lack the tensor h.0.mlp.c_fc.weight.input_scale"),
        ("ln_f.bias", torch.full((64,), torch.nan), "ln_f.bias holds NaN"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    static: Path, name: str, tensor: torch.Tensor | None, named: str
) -> None:
    path = static / "model.safetensors"
    changed = {**load_file(path), name: tensor}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)
    with pytest.raises(ModelUnavailable) as caught:
        load(str(static), None, "cpu")
    assert named in str(caught.value)


def test_an_int4_scale_of_zero_is_refused(saved: dict[Method, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved["int4_weight"], tmp_path / "int4"))
    path, name = folder / "model.safetensors", "h.0.mlp.c_fc.weight.scales"
    tensors = load_file(path)
    tensors[name][3, 1] = 0
    save_file(tensors, path)
    with pytest.raises(ModelUnavailable, match="scales holds a scale of zero"):
        load(str(folder), None, "cpu")


def test_half_a_file_of_codes_is_refused(static: Path) -> None:
    path = static / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    for asked in (load, describe):
        with pytest.raises(ModelUnavailable, match=r"model\.safetensors is not a whole safetensors file"):
            asked(str(static), None, "cpu")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": "int3"}, "quantization_config.method"),
        ({"version": 2}, "quantization_config.version"),
        ({"quant_method": "awq"}, "not ours"),
        ({"bits": 8}, "quantization_config.bits"),
        ({"method": "int4_weight"}, "h.0"),
    ],
    ids=str,
)
def test_a_quantization_config_that_does_not_fit_is_refused(
    static: Path, fields: dict[str, Any], named: str
) -> None:
    config = read_json(static / "config.json")
    config["quantization_config"] |= fields
    (static / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable) as caught:
        load(str(static), None, "cpu")
    assert named in str(caught.value)
