"""The only place that knows how a quantized model lies in its folder, and checks each part of one.

The folder is the original's but for two files. config.json has a `quantization_config`, which is `Saved`.
model.safetensors has the tensors of `worker.quantize.weights` under the checkpoint's names without
"transformer.": those that stay float as NAME; Int8Weight as NAME.codes, NAME.scales and, in int8_static,
NAME.input_scale; Int4Weight as NAME.codes and NAME.scales. Products lie [out, in]. The positions' embedding,
whose numbers quantizing rounds to bf16, lies so in every method but fp32.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from jobs.errors import ModelUnavailable
from worker.checkpoint import Shape, check_complete, check_finite, check_shape, opened
from worker.model import Architecture
from worker.quantize.codes import EMBEDDINGS, POSITIONS, PRODUCTS, multiplies
from worker.quantize.int4 import groups
from worker.quantize.methods import Method, float_type
from worker.quantize.weights import Int4Weight, Int8Weight, Weight

BESIDE = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
PARTS = (".codes", ".scales", ".input_scale")


class Saved(BaseModel):
    """The `quantization_config` of a config.json that this module wrote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quant_method: Literal["penstock"] = "penstock"
    version: Literal[1] = 1
    method: Method
    source: str  # digest of the model that was quantized
    calibration: str | None = None  # SHA-256 of the text that its scales were chosen for


def read_saved(config: dict[str, Any]) -> Saved | None:
    """What a config.json says of its quantization; None: nothing. Raises ModelUnavailable."""
    found = config.get("quantization_config")
    if not found:
        return None
    if not isinstance(found, dict) or found.get("quant_method") != "penstock":
        raise ModelUnavailable(
            "config.json has a quantization_config that is not ours; "
            "only unquantized weights and what python -m worker.quantize wrote can be read."
        )
    try:
        return Saved.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("quantization_config", *first["loc"])))
        raise ModelUnavailable(f"config.json does not fit at {where}: {first['msg']}.") from error


def save(source: Path, out: Path, weights: dict[str, Weight], saved: Saved) -> None:
    """Write the model quantized from the folder `source` to the folder `out`, whole or not at all.

    `out` is missing or empty. Raises OSError.
    """
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        config = json.loads((source / "config.json").read_bytes())
        config["quantization_config"] = saved.model_dump()
        (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in BESIDE:
            if (source / name).exists():
                shutil.copyfile(source / name, aside / name)
        path = aside / "model.safetensors"
        save_file(_flat(weights, saved.method), path, {"format": "pt"})
        path.chmod(0o644)  # it comes for its owner only, and the worker may be someone else
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def parts(architecture: Architecture, method: Method) -> dict[str, tuple[torch.dtype, Shape]]:
    """Type and shape of every tensor that a folder of this method holds. Raises ModelUnavailable."""
    found: dict[str, tuple[torch.dtype, Shape]] = {}
    for name, shape in architecture.shapes().items():
        if name.endswith(PRODUCTS):
            found |= _parts_of(architecture, name, (shape[1], shape[0]), method)
        elif name in EMBEDDINGS:
            found |= _parts_of(architecture, name, (shape[0], shape[1]), method)
        else:
            found[name] = (_float_type(name, method), shape)
    return found


def size(architecture: Architecture, method: Method) -> int:
    """Bytes of a model's weights under a method. Raises ModelUnavailable."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in parts(architecture, method).values())


def check_header(path: Path, architecture: Architecture, method: Method) -> None:
    """See that every part is there in its shape, without reading any. Raises ModelUnavailable."""
    asked = parts(architecture, method)
    with opened(path) as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping)
            check_shape(
                name, tuple(tensors.get_slice(name).get_shape()), asked[name][1] if name in asked else None
            )
        check_complete(set(tensors.keys()), asked)


def read_weights(path: Path, architecture: Architecture, method: Method) -> dict[str, Weight]:
    """The weights that `save` wrote, each part checked. Raises ModelUnavailable."""
    check_header(path, architecture, method)
    found = {}
    with opened(path) as tensors:
        for name, (dtype, _) in parts(architecture, method).items():
            tensor = tensors.get_tensor(name)
            if tensor.dtype != dtype:
                raise ModelUnavailable(f"the tensor {name} is {tensor.dtype}, and {method} asks for {dtype}.")
            if dtype.is_floating_point:
                check_finite(name, tensor)
            found[name] = tensor.clone()  # a view would keep all of the file in memory
    return {name: _assembled(name, found) for name in architecture.shapes()}


def _parts_of(
    architecture: Architecture, name: str, shape: tuple[int, int], method: Method
) -> dict[str, tuple[torch.dtype, Shape]]:
    """What one product or embedding [out, in] is kept as."""
    out, into = shape
    if method in ("fp32", "bf16"):
        return {name: (float_type(method), shape)}
    if method == "int4_weight" and name not in EMBEDDINGS:
        scales = (torch.float32, (out, groups(into, name)))
        return {f"{name}.codes": (torch.uint8, (out, into // 2)), f"{name}.scales": scales}
    found = {f"{name}.codes": (torch.int8, shape), f"{name}.scales": (torch.float32, (out,))}
    if method == "int8_static" and multiplies(architecture, name):
        found[f"{name}.input_scale"] = (torch.float32, (1,))
    return found


def _float_type(name: str, method: Method) -> torch.dtype:
    """Of what no method has codes for."""
    return float_type(method) if name == POSITIONS else torch.float32


def _flat(weights: dict[str, Weight], method: Method) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if isinstance(weight, Tensor):
            found[name] = weight.to(_float_type(name, method)) if name == POSITIONS else weight
            continue
        found |= {f"{name}.codes": weight.codes, f"{name}.scales": weight.scales}
        if isinstance(weight, Int8Weight) and weight.input_scale is not None:
            found[f"{name}.input_scale"] = torch.tensor([weight.input_scale])
    return found


def _assembled(name: str, found: dict[str, Tensor]) -> Weight:
    """Put the parts of one weight together. Raises ModelUnavailable where one is none that `save` writes."""
    if name in found:
        return found.pop(name).float() if name == POSITIONS else found.pop(name)
    codes, scales, input_scale = (found.pop(f"{name}{part}", None) for part in PARTS)
    if codes is None or scales is None:
        raise KeyError(name)  # `parts` has asked for both
    if codes.dtype == torch.uint8:
        if not scales.all():
            raise ModelUnavailable(f"the tensor {name}.scales holds a scale of zero.")
        return Int4Weight(codes, scales)
    if (codes == -128).any():
        raise ModelUnavailable(f"the tensor {name}.codes holds -128; codes are -127 to 127.")
    for part, values in (("scales", scales), ("input_scale", input_scale)):
        if values is not None and not (values > 0).all():
            raise ModelUnavailable(f"the tensor {name}.{part} holds a scale that is not above zero.")
    return Int8Weight(codes, scales, None if input_scale is None else input_scale.item())
