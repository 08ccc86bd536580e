"""The weights of an export and what describes them: taken as they are, or with an adapter in them."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from jobs.errors import DiskFull, ModelUnavailable
from trainer import folder_check
from trainer.export_order import Order

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, GENERATION = "config.json", "generation_config.json"

_PLAIN = {"F64", "F32", "F16", "BF16"}
_FLOAT = 4  # bytes of a merged weight
_NOT_COUNTED = (".attn.bias", ".attn.masked_bias", "lm_head.weight")  # constants, the embedding once more


@dataclass(frozen=True)
class Made:
    """What the card says of the weights."""

    config: dict[str, Any]
    parameters: int


def write(order: Order) -> Made:
    """Write weights, config.json and generation_config.json into `order.model`.

    Raises:
        ModelUnavailable: the model is not what it should be.
        DiskFull: there is no room for it.
    """
    config = _config(order)
    parts = _parts(order.base)
    parameters = _count(order.base, parts)
    if order.adapter is None:
        for name in parts:
            _take(order.base / name, order.model / name)
    else:
        _check_room(order.model, parameters * _FLOAT)
        _merge(order.base, order.adapter, order.model)
        config["dtype"] = "float32"
        config.pop("torch_dtype", None)
    _write_json(order.model / CONFIG, config)
    _write_json(order.model / GENERATION, _generation(order.base, config))
    return Made(config, parameters)


def _config(order: Order) -> dict[str, Any]:
    config = _read_json(order.base / CONFIG)
    if config.get("model_type", "gpt2") != "gpt2":
        raise ModelUnavailable(f"The model is no GPT-2 but {config['model_type']!r}, which is not exported.")
    if "quantization_config" in config:
        raise ModelUnavailable(
            "The model's folder holds quantized weights, which plain transformers do not load. "
            "Export the model that they were made from."
        )
    folder_check.check_config(config)
    return config | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


def _generation(base: Path, config: dict[str, Any]) -> dict[str, Any]:
    path = base / GENERATION
    found = _read_json(path) if path.exists() else {}
    found.pop("_from_model_config", None)
    ends = config.get("eos_token_id", 50256)
    return {"bos_token_id": config.get("bos_token_id", ends), "eos_token_id": ends} | found


def _parts(base: Path) -> list[str]:
    """The files with the weights, and their index where there are several."""
    if (base / WEIGHTS).exists():
        return [WEIGHTS]
    if not (base / INDEX).exists():
        raise ModelUnavailable(f"The model's folder has neither {WEIGHTS} nor {INDEX}.")
    shards = sorted(set(_read_json(base / INDEX).get("weight_map", {}).values()))
    if not shards or any(Path(name).name != name for name in shards):
        raise ModelUnavailable(f"{INDEX} has no weight_map of files beside it.")
    return [INDEX, *shards]


def _count(base: Path, parts: list[str]) -> int:
    """How many numbers the weights are; a tied embedding counts once."""
    total = 0
    for name in parts:
        if name != INDEX:
            for tensor, kind, shape in _tensors(base / name):
                if kind not in _PLAIN and not tensor.endswith(_NOT_COUNTED):
                    raise ModelUnavailable(f"The tensor {tensor} is {kind}, not floating point.")
                total += 0 if tensor.endswith(_NOT_COUNTED) else prod(shape)
    return total


def _tensors(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and shape of each tensor, once all of the file is what its head says."""
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_slice(name)
                yield name, tensor.get_dtype(), tensor.get_shape()
    except FileNotFoundError as error:
        raise ModelUnavailable(f"The file {path.name} is missing.") from error
    except SafetensorError as error:
        raise ModelUnavailable(f"{path.name} is not a whole safetensors file.") from error


def _merge(base: Path, adapter: Path, folder: Path) -> None:
    """Write the base with B A added to its products, in fp32."""
    import torch  # seconds, which a whole model does not need
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    folder_check.check_adapter(adapter)
    try:
        model = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
        with warnings.catch_warnings():  # PEFT asks for what transformers have renamed
            warnings.simplefilter("ignore", FutureWarning)
            merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelUnavailable(f"The adapter cannot be merged into its base: {error}.") from error
    merged.save_pretrained(folder, max_shard_size="1TB")


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFull(
            f"The export needs {needed / 1e6:,.0f} MB on the disk of the trainer's host, "
            f"and {free / 1e6:,.0f} MB are free."
        )


def _take(source: Path, to: Path) -> None:
    """A second name for a file, or a copy where its disk is another."""
    try:
        os.link(source.resolve(), to)
    except FileNotFoundError as error:
        raise ModelUnavailable(f"The file {source.name} is missing.") from error
    except OSError:  # another disk, or one that does not link
        _check_room(to.parent, source.stat().st_size)
        shutil.copyfile(source, to)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelUnavailable(f"The file {path.name} is missing.") from error
    except ValueError as error:
        raise ModelUnavailable(f"{path.name} is not JSON.") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path.name} is not a JSON object.")
    return found


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
