"""The only place that opens a LoRA adapter: a folder as PEFT saves it, checked against the model under it."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from jobs import digests
from jobs.digests import ADAPTER_CONFIG as CONFIG
from jobs.digests import ADAPTER_WEIGHTS as WEIGHTS
from jobs.errors import ModelUnavailable
from worker.checkpoint import check_finite, opened, read_json
from worker.model import Architecture

PRODUCTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_NAME = re.compile(
    r"base_model\.model\.(?:transformer\.)?(?P<product>h\.\d+\.\w+\.\w+)\.lora_(?P<half>[AB])\.weight"
)
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others change the model under it

Halves = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a LoRA adds to products: y += B (A x), both in fp32 (arXiv:2106.09685)."""

    digest: str  # SHA-256 over configuration and weights
    rank: int
    products: dict[str, Halves]  # "h.0.attn.c_attn": A [rank, in], and B [out, rank] with the scaling in it

    @property
    def bytes(self) -> int:
        """What its numbers take."""
        return sum(half.nbytes for halves in self.products.values() for half in halves)

    def digest_over(self, model: str) -> str:
        """The digest of what speaks: this adapter over the model of that digest."""
        return digests.over(self.digest, model)


class AdapterConfig(BaseModel):
    """What of PEFT's `LoraConfig` decides the product; what would change it otherwise is refused by name."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    peft_type: Literal["LORA"]
    base_model_name_or_path: str = Field(min_length=1)
    r: int = Field(ge=1, le=256)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    use_rslora: bool = False
    target_modules: list[str] | str
    layers_to_transform: list[int] | int | None = None
    # how the model's own weights lie, [in, out] in GPT-2's Conv1D; A and B are [out, in] either way
    fan_in_fan_out: bool | None = None

    bias: Literal["none"] = "none"
    use_dora: Literal[False] = False
    lora_bias: Literal[False] = False
    init_lora_weights: Any = True
    modules_to_save: list[str] | None = Field(default=None, max_length=0)
    rank_pattern: dict[str, int] | None = Field(default=None, max_length=0)
    alpha_pattern: dict[str, float] | None = Field(default=None, max_length=0)
    layer_replication: list[Any] | None = Field(default=None, max_length=0)
    trainable_token_indices: Any = None

    @property
    def scaling(self) -> float:
        """What B A x is multiplied by; with the root of the rank it is rsLoRA (arXiv:2312.03732)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and not a whole model."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> AdapterConfig:
    """What the adapter says of itself. Raises ModelUnavailable, naming the field."""
    found = read_json(folder / CONFIG)
    try:
        config = AdapterConfig.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelUnavailable(f"{CONFIG} does not fit at {where}: {first['msg']}.") from error
    if config.init_lora_weights not in _PLAIN_STARTS:
        raise ModelUnavailable(
            f"{CONFIG} has init_lora_weights {config.init_lora_weights!r}, which changes the model's own"
            " weights; save it with path_initial_model_for_weight_conversion, as a plain LoRA."
        )
    if config.trainable_token_indices:
        raise ModelUnavailable(f"{CONFIG} has trainable_token_indices; only products can be adapted here.")
    return config


def read_adapter(folder: Path, architecture: Architecture) -> Adapter:
    """The adapter in a PEFT folder, for a model of this architecture.

    Raises ModelUnavailable with one sentence that names the field or tensor.
    """
    config = read_config(folder)
    path = folder / WEIGHTS
    if not path.exists():
        for pickle in sorted(folder.glob("*.bin")):
            raise ModelUnavailable(f"{pickle.name} is a pickle, which is never opened; save it as {WEIGHTS}.")
    halves = _halves(path, config.r, architecture)
    products = {name: (found["A"], found["B"].mul_(config.scaling)) for name, found in sorted(halves.items())}
    _check_targets(config, products, architecture)
    return Adapter(digests.of_files([folder / CONFIG, path]), config.r, products)


def _halves(path: Path, rank: int, architecture: Architecture) -> dict[str, dict[str, Tensor]]:
    """A and B of each product, as fp32 copies."""
    shapes = architecture.shapes()
    found: dict[str, dict[str, Tensor]] = {}
    with opened(path) as tensors:
        for name in tensors.keys():  # noqa: SIM118 (no mapping)
            match = _NAME.fullmatch(name)
            if match is None or f"{match['product']}.weight" not in shapes:
                raise ModelUnavailable(
                    f"the adapter has a tensor {name}, which is not of a product of its model."
                )
            into, out = shapes[f"{match['product']}.weight"]
            asked = (rank, into) if match["half"] == "A" else (out, rank)
            tensor = tensors.get_tensor(name)
            if tuple(tensor.shape) != asked or not tensor.is_floating_point():
                raise ModelUnavailable(
                    f"the tensor {name} is {tensor.dtype} of shape {list(tensor.shape)}, and r and its model"
                    f" ask for floating point of {list(asked)}."
                )
            tensor = tensor.to(torch.float32, copy=True)
            check_finite(name, tensor)
            found.setdefault(match["product"], {})[match["half"]] = tensor
    for product, both in found.items():
        for half in {"A", "B"} - both.keys():
            raise ModelUnavailable(f"the adapter lacks lora_{half} of {product}, whose other half it has.")
    return found


def _check_targets(config: AdapterConfig, products: dict[str, Halves], architecture: Architecture) -> None:
    """See that the weights are of the modules which the configuration names."""
    if not products:
        raise ModelUnavailable("the adapter has no tensors.")
    if isinstance(config.target_modules, str):
        return  # a pattern: what it matched is in the file
    layers = config.layers_to_transform
    if layers is None:
        layers = list(range(architecture.n_layer))
    elif isinstance(layers, int):
        layers = [layers]
    asked = {f"h.{layer}.{product}" for layer in layers for product in PRODUCTS}
    for target in config.target_modules:
        if not any(_matches(product, target) for product in asked):
            raise ModelUnavailable(
                f"{CONFIG} has {target!r} in target_modules; only c_attn, c_proj and c_fc can be adapted."
            )
    for product in sorted(asked):
        if product not in products and any(_matches(product, target) for target in config.target_modules):
            raise ModelUnavailable(f"the adapter lacks {product}, which {CONFIG} names in target_modules.")


def _matches(product: str, target: str) -> bool:
    """As PEFT does: the module's whole name or its end."""
    return f"transformer.{product}" == target or product == target or product.endswith(f".{target}")
