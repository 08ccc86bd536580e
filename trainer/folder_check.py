"""What a model's folder may hold before transformers or PEFT read it: weights and numbers, no code."""

import json
from pathlib import Path
from typing import Any

from jobs.errors import ModelUnavailable

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SHAPE = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")

_CODE = ("auto_map", "custom_pipelines")  # of the model's own
_IMPLEMENTATIONS = (  # a name of a repository in one of these is fetched from the Hub and run
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "kernel_config",
    "use_kernels",
)


def check_config(config: dict[str, Any]) -> None:
    """See that a config.json asks for numbers alone. Raises ModelUnavailable, naming the field."""
    for field in (*_CODE, *_IMPLEMENTATIONS):
        if config.get(field):
            raise ModelUnavailable(
                f"config.json names code in '{field}', which is never run here. Remove that field."
            )
    for field in _SHAPE:
        size = config.get(field, 1)
        if type(size) is not int or size < 1:
            raise ModelUnavailable(f"config.json has {str(size)[:50]!r} for '{field}', which is no size.")


def check_adapter(folder: Path) -> None:
    """See that a PEFT folder holds safetensors and a LoRA. Raises ModelUnavailable."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{ADAPTER_CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ModelUnavailable(f"{ADAPTER_CONFIG} is of no LoRA, and no other adapter is taken.")
    if config.get("megatron_config"):  # lets PEFT import the module that 'megatron_core' names
        raise ModelUnavailable(f"{ADAPTER_CONFIG} has a 'megatron_config', which is never taken. Remove it.")
    if not (folder / ADAPTER).is_file():  # PEFT would take a pickle instead, or ask the Hub
        raise ModelUnavailable(f"The file {ADAPTER} is missing; pickles are never opened.")
