"""The only place that opens a checkpoint's JSON and safetensors: everything is checked, no code is run."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jobs.errors import ModelUnavailable
from worker.model import Architecture

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CODE = ("auto_map", "custom_pipelines")  # config fields that name code of the model's own
MASKS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that old checkpoints hold

Shape = tuple[int, ...]


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises ModelUnavailable."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelUnavailable(f"the file {path.name} is missing.") from error
    except (ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{path.name} is not JSON.") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path.name} is not a JSON object.")
    return found


def read_architecture(config: dict[str, Any]) -> Architecture:
    """What a config.json asks for. Raises ModelUnavailable."""
    for field in CODE:
        if config.get(field):
            raise ModelUnavailable(f"config.json names code of its own in {field}, which is never run here.")
    try:
        return Architecture.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its fields"
        raise ModelUnavailable(f"config.json does not fit at {where}: {_said(first)}.") from error


def _said(found: ErrorDetails) -> str:
    return found["msg"].removeprefix("Value error, ")


def read_ends_of_text(folder: Path, config: dict[str, Any], vocab: int) -> tuple[int, ...]:
    """The token ids that end a text, the model's own first. Raises ModelUnavailable."""
    path = folder / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.exists() else None
    found = config.get("eos_token_id", 50256) if found is None else found
    ends = found if isinstance(found, list) else [found]
    if not ends or not all(type(end) is int and 0 <= end < vocab for end in ends):
        raise ModelUnavailable(f"eos_token_id must be token ids below vocab_size {vocab}, not {found}.")
    return tuple(dict.fromkeys(ends))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, one or its shards. Raises ModelUnavailable."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(_is_plain_name(name) for name in shards.values()):
            raise ModelUnavailable(f"{index.name} has no weight_map of safetensors files beside it.")
        files = [folder / name for name in sorted(set(shards.values()))]
        for path in files:
            if not path.exists():
                raise ModelUnavailable(f"the file {path.name} is missing.")
        return files
    for pattern in PICKLES:
        for pickle in sorted(folder.glob(pattern)):
            raise ModelUnavailable(
                f"{pickle.name} is a pickle, which is never opened; save it as safetensors."
            )
    raise ModelUnavailable("the file model.safetensors is missing.")


def check_headers(files: list[Path], architecture: Architecture) -> None:
    """See that every tensor is there in its shape, without reading any. Raises ModelUnavailable."""
    for _ in _visit(files, architecture):
        pass


def read_tensors(files: list[Path], architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that the architecture asks for, one after the other, as a finite fp32 copy of the file's.

    Named as in `Architecture.shapes`. Raises ModelUnavailable.
    """
    for tensors, name, plain in _visit(files, architecture):
        tensor = tensors.get_tensor(name)
        if not tensor.is_floating_point():
            raise ModelUnavailable(f"the tensor {name} is {tensor.dtype}, not floating point.")
        # a copy: a view would keep all of the file in memory, and follow what is written to it
        tensor = tensor.to(torch.float32, copy=True)
        check_finite(name, tensor)
        yield plain, tensor


def _visit(files: list[Path], architecture: Architecture) -> Iterator[tuple[Any, str, str]]:
    """Each open file with a tensor's name in it and in `Architecture.shapes`; none is missing in the end."""
    shapes = architecture.shapes()
    seen: set[str] = set()
    for path in files:
        with opened(path) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                plain = name.removeprefix("transformer.")
                if MASKS.fullmatch(plain) or (plain == "lm_head.weight" and plain not in shapes):
                    continue
                check_shape(name, tuple(tensors.get_slice(name).get_shape()), shapes.get(plain))
                if plain in seen:
                    raise ModelUnavailable(f"the weights have the tensor {plain} twice.")
                seen.add(plain)
                yield tensors, name, plain
    check_complete(seen, shapes)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises ModelUnavailable."""
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except FileNotFoundError as error:
        raise ModelUnavailable(f"the file {path.name} is missing.") from error
    except SafetensorError as error:
        raise ModelUnavailable(f"{path.name} is not a whole safetensors file: {error}.") from error


def check_shape(name: str, has: Shape, asked: Shape | None) -> None:
    """See that a tensor is wanted, and as wide as it should be. Raises ModelUnavailable."""
    if asked is None:
        raise ModelUnavailable(f"the weights have a tensor {name}, which config.json does not ask for.")
    if has != asked:
        raise ModelUnavailable(
            f"the tensor {name} has shape {list(has)}, and config.json asks for {list(asked)}."
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises ModelUnavailable where a number is NaN or infinite."""
    if not all(end.isfinite() for end in tensor.aminmax()):  # NaN is both the least and the largest
        raise ModelUnavailable(f"the tensor {name} holds NaN or infinity.")


def check_complete(seen: set[str], asked: Iterable[str]) -> None:
    """Raises ModelUnavailable where a tensor is missing."""
    for name in asked:
        if name not in seen:
            raise ModelUnavailable(f"the weights lack the tensor {name}, which config.json asks for.")


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
