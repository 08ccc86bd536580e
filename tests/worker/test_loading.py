"""A model's folder is believed only as far as it was checked."""

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
from tests.worker.conftest import CONTEXT, EOS, VOCAB, greedy, random_gpt2, run, write_folder
from worker import loading
from worker.engine import Engine
from worker.loading import LoadedModel, describe, load


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", gpt2, tokenizer)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    changed = {**load_file(path), **tensors}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)


def says(model: LoadedModel) -> list[int]:
    engine = Engine(model.model, model.tokenizer, 1, 32)
    run(engine, [sequence := greedy([5, 6, 7], 12)])
    return sequence.tokens


def refusal(folder: Path | str) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        load(str(folder), "fp32", "cpu")
    sentence = str(caught.value)
    assert sentence.startswith(f"{folder}: ")
    assert "\n" not in sentence
    return sentence.removeprefix(f"{folder}: ")


def test_a_saved_model_says_what_it_said_before(saved: Path, gpt2: GPT2LMHeadModel) -> None:
    model = load(str(saved), "fp32", "cpu")
    asked = torch.tensor([[5, 6, 7]])
    expected = gpt2.generate(
        asked, attention_mask=torch.ones_like(asked), max_new_tokens=12, do_sample=False, pad_token_id=EOS
    )
    assert says(model) == expected[0, 3:].tolist()
    assert (model.vocab_size, model.context, model.eos_token_id) == (VOCAB, CONTEXT, EOS)
    assert (model.quantization, model.chat_template) == ("fp32", None)
    assert model.parameters == sum(parameter.numel() for parameter in gpt2.parameters())
    assert (
        Tokenizer.from_buffer(model.tokenizer_json).encode("the end").ids
        == model.tokenizer.encode("the end").ids
    )


def test_the_default_on_cpu_is_int8(saved: Path) -> None:
    assert load(str(saved), None, "cpu").quantization == "int8"


def test_names_without_prefix_shards_and_old_masks_are_the_same_model(folder: Path) -> None:
    expected = says(load(str(folder), "fp32", "cpu"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    plain["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    names = sorted(plain)
    shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: plain[name] for name in inside}, folder / shard)
    weight_map = {name: shard for shard, inside in shards.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert says(load(str(folder), "fp32", "cpu")) == expected


def test_an_untied_head_is_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    reference = random_gpt2(tie_word_embeddings=False)
    write_folder(tmp_path, reference, tokenizer)
    asked = torch.tensor([[5, 6, 7]])
    expected = reference.generate(
        asked, attention_mask=torch.ones_like(asked), max_new_tokens=12, do_sample=False, pad_token_id=EOS
    )
    assert says(load(str(tmp_path), "fp32", "cpu")) == expected[0, 3:].tolist()


def test_the_digest_follows_configuration_weights_and_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    digests = [load(str(folder), "fp32", "cpu").digest, load(str(folder), "int8", "cpu").digest]
    assert digests[0] == digests[1]
    change(folder / "config.json", layer_norm_epsilon=1e-6)
    digests.append(load(str(folder), "fp32", "cpu").digest)
    change_tensors(folder, **{"transformer.ln_f.bias": torch.ones(64)})
    digests.append(load(str(folder), "fp32", "cpu").digest)
    changed = Tokenizer.from_str(tokenizer.to_str())
    changed.add_tokens(["more"])
    changed.save(str(folder / "tokenizer.json"))
    digests.append(load(str(folder), "fp32", "cpu").digest)
    assert len(set(digests)) == 4


def test_a_description_is_that_of_the_loaded_model(saved: Path, gpt2: GPT2LMHeadModel) -> None:
    described, loaded = describe(str(saved), None, "cpu"), load(str(saved), None, "cpu")
    assert {name: value for name, value in vars(loaded).items() if name in vars(described)} | {
        "tokenizer": None
    } == vars(described) | {"tokenizer": None}
    assert described.parameters == sum(parameter.numel() for parameter in gpt2.parameters())
    assert described.weight_bytes < 1.5 * described.parameters  # int8, and a few norms in fp32


def test_a_model_that_does_not_fit_is_not_described(folder: Path) -> None:
    change_tensors(folder, **{"transformer.ln_f.bias": torch.ones(63)})
    with pytest.raises(ModelUnavailable, match=r"ln_f.bias has shape \[63\]"):
        describe(str(folder), "fp32", "cpu")


def test_the_first_end_of_text_is_the_models_own(folder: Path) -> None:
    change(folder / "generation_config.json", eos_token_id=[7, EOS, 7])
    model = load(str(folder), "fp32", "cpu")
    assert (model.eos_token_id, model.eos_token_ids, model.model.eos_token_id) == (7, (7, EOS), 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_in_16_bits_says_what_its_numbers_say(folder: Path, dtype: torch.dtype) -> None:
    path = folder / "model.safetensors"
    halved = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file({name: tensor.float() for name, tensor in halved.items()}, path)
    expected = says(load(str(folder), "fp32", "cpu"))
    save_file(halved, path)
    assert says(load(str(folder), "fp32", "cpu")) == expected


def test_the_torch_path_can_be_asked_for(saved: Path) -> None:
    model = load(str(saved), "int8", "cpu", kernel="torch")
    assert (model.path, model.why) == ("torch", "KERNEL is set to torch.")


def test_a_model_that_the_kernel_cannot_serve_says_why(saved: Path) -> None:
    model = load(str(saved), "fp32", "cpu")
    assert model.path == "torch"
    assert model.why
    assert "\n" not in model.why


def test_static_int8_is_only_had_from_a_saved_model(saved: Path) -> None:
    for asked in (load, describe):
        with pytest.raises(ModelUnavailable, match=r"python -m worker\.quantize --method int8_static"):
            asked(str(saved), "int8_static", "cpu")


def test_a_tensor_that_is_there_twice_is_refused(folder: Path) -> None:
    change_tensors(folder, **{"ln_f.bias": torch.ones(64)})
    assert refusal(folder) == "the weights have the tensor ln_f.bias twice."


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
        ({"quantization_config": {"quant_method": "penstock", "version": 2}}, "quantization_config."),
        ({"activation_function": "maxout"}, "maxout"),
        ({"n_layer": 4}, "h.3.ln_1.weight"),
        ({"n_layer": 2}, "h.2."),
        ({"vocab_size": 301}, "wte.weight has shape"),
        ({"n_embd": "wide"}, "n_embd"),
        ({"eos_token_id": 300}, "eos_token_id"),
        ({"eos_token_id": [0, 300]}, "eos_token_id"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"eos_token_id": True}, "eos_token_id"),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_is_refused(
    folder: Path, fields: dict[str, Any], named: str
) -> None:
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", **fields)
    assert named in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"]
)
@pytest.mark.parametrize("content", [b"", b"\x80 not", b"[1]"])
def test_a_broken_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name.removesuffix(".json") in refusal(folder)


def test_half_a_file_of_weights_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "model.safetensors is not a whole safetensors file" in refusal(folder)


def test_a_pickle_is_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle" in refusal(folder)


def test_a_shard_outside_the_folder_is_not_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": "../other.safetensors"}}))
    assert "weight_map" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": "lost.safetensors"}}))
    assert "lost.safetensors is missing" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "named"),
    [
        ("transformer.ln_f.bias", torch.full((64,), torch.nan), "NaN"),
        ("transformer.ln_f.bias", torch.full((64,), torch.inf), "NaN or infinity"),
        ("transformer.ln_f.bias", torch.ones(64, dtype=torch.int32), "int32"),
        ("transformer.ln_f.bias", torch.ones(63), "shape [63]"),
        ("transformer.ln_f.bias", None, "ln_f.bias"),
        ("transformer.adapter", torch.ones(2), "adapter"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, name: str, tensor: torch.Tensor | None, named: str
) -> None:
    change_tensors(folder, **{name: tensor})
    assert named in refusal(folder)


def test_a_folder_that_is_not_there_is_one_sentence() -> None:
    assert refusal("./no/such/folder") == "there is no such folder."


def test_an_unreachable_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loading.snapshot_download
    away = {"endpoint": "http://127.0.0.1:9", "cache_dir": tmp_path}
    monkeypatch.setattr(loading, "snapshot_download", lambda *args, **kwargs: real(*args, **kwargs, **away))
    assert refusal("someone/some-model") == "there is no such folder, and the Hub could not be reached."


def test_a_hub_model_is_fetched_without_code_or_pickles(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(source: str, **options: Any) -> str:
        asked.update(options, source=source)
        return str(saved)

    monkeypatch.setattr(loading, "snapshot_download", fetch)
    model = load("someone/some-model", "fp32", "cpu", token="hf_secret")
    assert model.vocab_size == VOCAB
    assert (asked["source"], asked["token"]) == ("someone/some-model", "hf_secret")
    assert {Path(name).suffix for name in asked["allow_patterns"]} == {
        ".json",
        ".safetensors",
        ".txt",
        ".jinja",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_one_sentence(saved: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no CUDA device"):
        load(str(saved), None, "cuda")
    assert load(str(saved), None, "auto").quantization == "int8"
