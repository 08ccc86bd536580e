"""Models from strangers: weights and numbers are read, nothing is run, and nobody is called."""

import json
import pickle
import shutil
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from jobs.errors import ModelUnavailable
from tests.jobs.test_lines import Peak
from tests.trainer.small import order, write_adapter, write_model
from trainer import export, folder_check, foundation
from worker.adapters import read_adapter
from worker.architecture import Architecture
from worker.loading import describe, load

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "good")


@pytest.fixture(scope="module")
def good_adapter(good: Path) -> Path:
    return write_adapter(good, good.with_name("adapter"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A model's folder that a test may spoil."""
    return Path(shutil.copytree(good, tmp_path / "model"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whom anybody tried to reach: nobody can be."""
    tried: list[Any] = []

    def refuse(_socket: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("there is no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: refuse(None, given))  # type: ignore[arg-type]
    return tried


def change(folder: Path, name: str = "config.json", **fields: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def by_worker(folder: Path) -> object:
    return load(str(folder), "fp32", "cpu", kernel="torch")


def by_trainer(folder: Path) -> object:
    foundation._config(folder)
    return foundation._load(folder)


def by_export(folder: Path) -> object:
    to = folder.parent / "export"
    shutil.rmtree(to, ignore_errors=True)
    export.write(order(to, folder))
    return to


READERS = [by_worker, by_trainer, by_export]
each_reader = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)


@each_reader
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_a_pickle_is_not_opened_by_anybody(
    folder: Path, tmp_path: Path, read: Callable[[Path], object], name: str
) -> None:
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "run"
    torch.save({"wte.weight": Evil(mark)}, folder / name)
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(ModelUnavailable):
        read(folder)
    assert not mark.exists()


@each_reader
def test_a_pickle_under_the_name_of_safetensors_is_not_opened_either(
    folder: Path, tmp_path: Path, read: Callable[[Path], object]
) -> None:
    mark = tmp_path / "run"
    with (folder / "model.safetensors").open("wb") as file:
        pickle.dump(Evil(mark), file)
    with pytest.raises(ModelUnavailable):
        read(folder)
    assert not mark.exists()


def test_an_adapter_s_pickle_is_not_opened(good: Path, good_adapter: Path, tmp_path: Path) -> None:
    evil = Path(shutil.copytree(good_adapter, tmp_path / "adapter"))
    (evil / "adapter_model.safetensors").unlink()
    mark = tmp_path / "run"
    torch.save(
        {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": Evil(mark)}, evil / "adapter_model.bin"
    )
    shape = Architecture.model_validate_json((good / "config.json").read_bytes())
    with pytest.raises(ModelUnavailable, match="never opened"):
        read_adapter(evil, shape)
    with pytest.raises(ModelUnavailable, match="never opened"):
        foundation._merge(foundation._load(good), evil)
    with pytest.raises(ModelUnavailable, match="never opened"):
        export.write(order(tmp_path / "export", good, adapter=evil))
    assert not mark.exists()


def tensor(**more: Any) -> bytes:
    """A header of one tensor."""
    return json.dumps({"wte.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **more}}).encode()


def headed(length: int, rest: bytes) -> bytes:
    return struct.pack("<Q", length) + rest


HEADERS: dict[str, bytes] = {
    "of 2^64 - 1 bytes": headed(2**64 - 1, b"{}"),
    "of 2^63 bytes": headed(2**63, b"{}"),
    "of 50 GB": headed(50_000_000_000, b"{}"),
    "of 200 MB": headed(200_000_000, b"{}"),
    "longer than the file": headed(1000, b"{}"),
    "of nothing": headed(0, b""),
    "cut": b"\x01\x02",
    "no JSON": headed(4, b"evil"),
    "nested": headed(200_001, b"[" * 200_001),
    "huge shape": headed(len(tensor(shape=[2**62, 4])), tensor(shape=[2**62, 4])) + b"\0" * 4,
    "overflowing shape": headed(len(tensor(shape=[2**64 + 1])), tensor(shape=[2**64 + 1])) + b"\0" * 4,
    "negative shape": headed(len(tensor(shape=[-1])), tensor(shape=[-1])) + b"\0" * 4,
    "offsets behind the end": headed(len(tensor(data_offsets=[0, 10**9])), tensor(data_offsets=[0, 10**9])),
    "offsets backwards": headed(len(tensor(data_offsets=[4, 0])), tensor(data_offsets=[4, 0])) + b"\0" * 4,
    "unknown numbers": headed(len(tensor(dtype="EVIL")), tensor(dtype="EVIL")) + b"\0" * 4,
    "other width": headed(len(tensor(dtype="F64")), tensor(dtype="F64")) + b"\0" * 4,
}  # fmt: skip


@each_reader
@pytest.mark.parametrize("name", HEADERS)
def test_a_head_of_weights_that_lies_is_refused_and_costs_no_memory(
    folder: Path, read: Callable[[Path], object], name: str
) -> None:
    (folder / "model.safetensors").write_bytes(HEADERS[name])
    with Peak(psutil.Process()) as peak, pytest.raises(ModelUnavailable):
        read(folder)
    assert peak.megabytes < 300


EVIL_CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Model: pass\n"
CONFIGS: dict[str, dict[str, Any]] = {
    "code of its own": {"auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Model"}},
    "code of a repository": {"auto_map": {"AutoModelForCausalLM": "evil/repo--evil.Model"}},
    "pipelines": {"custom_pipelines": {"text-generation": {"impl": "evil.Model"}}},
    "a kernel": {"attn_implementation": "evil/kernel"},
    "a kernel by its inner name": {"_attn_implementation": "kernels-community/evil"},
    "a kernel by its innermost name": {"_attn_implementation_internal": "evil/kernel:forward"},
    "an expert kernel": {"experts_implementation": "evil/kernel"},
    "kernels": {"use_kernels": True, "kernel_config": {"RMSNorm": "evil/kernel:Norm"}},
    "a quantizer": {"quantization_config": {"quant_method": "evil", "modules": "evil"}},
    "a quantizer that is installed": {"quantization_config": {"quant_method": "bitsandbytes"}},
    "another class": {"architectures": ["evil.Model"], "torch_dtype": "evil.Model"},
    "another kind": {"model_type": "../evil"},
    "another base": {"_name_or_path": "evil/repo", "base_model_name_or_path": "evil/repo"},
    "an adapter": {"peft_type": "LORA", "_adapter_model_path": "evil/repo"},
    "a tokenizer's class": {"tokenizer_class": "evil.Model"},
    "a trillion": {"vocab_size": 10**12},
    "wide": {"n_embd": 10**9, "n_head": 1},
    "deep": {"n_layer": 10**9},
    "no heads": {"n_head": 0},
    "negative": {"n_layer": -1},
    "text": {"n_layer": "__import__('os')"},
    "infinite": {"layer_norm_epsilon": float("inf")},
    "an activation by path": {"activation_function": "evil.Model"},
}  # fmt: skip
REFUSED = [name for name in CONFIGS if name.startswith(("code", "pipelines"))]
TOO_LARGE = {"a trillion", "wide", "deep"}
"""The worker sees in a header that no such weights are there; the trainer begins with what it offered."""


@each_reader
@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_runs_nothing_and_calls_nobody(
    folder: Path,
    tmp_path: Path,
    calls: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], object],
    name: str,
) -> None:
    if name in TOO_LARGE and read is by_trainer:
        pytest.skip("it begins with what a worker has described")
    mark = tmp_path / "run"
    (folder / "evil.py").write_text(EVIL_CODE.format(mark=str(mark)))
    change(folder, **CONFIGS[name])
    monkeypatch.chdir(folder)
    try:
        read(folder)
    except ModelUnavailable:
        pass
    else:
        assert name not in REFUSED
    assert (calls, mark.exists(), "evil" in sys.modules) == ([], False, False)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b"7" * 10_000])
def test_a_file_that_is_a_bomb_of_json_is_one_sentence(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelUnavailable) as caught:
        describe(str(folder), "fp32", "cpu")
    assert "\n" not in str(caught.value)


def test_the_trainer_names_what_it_does_not_run(folder: Path, good_adapter: Path, tmp_path: Path) -> None:
    change(folder, attn_implementation="evil/kernel")
    with pytest.raises(ModelUnavailable, match="'attn_implementation'"):
        foundation._config(folder)
    evil = Path(shutil.copytree(good_adapter, tmp_path / "adapter"))
    change(evil, "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil")
    with pytest.raises(ModelUnavailable, match="'megatron_config'"):
        folder_check.check_adapter(evil)
    change(evil, "adapter_config.json", megatron_config=None, peft_type="PREFIX_TUNING")
    with pytest.raises(ModelUnavailable, match="no LoRA"):
        folder_check.check_adapter(evil)
