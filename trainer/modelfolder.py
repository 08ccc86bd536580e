"""Writes models as Hugging Face and PEFT lay them out; workers and plain transformers read the same."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from trainer import tokenizing
from trainer.foundation import Foundation, merged
from trainer.network import Student
from trainer.spec import Spec

WEIGHTS, ADAPTER, ADAPTER_CONFIG = "model.safetensors", "adapter_model.safetensors", "adapter_config.json"
PARTS = (
    WEIGHTS, ADAPTER, ADAPTER_CONFIG, "config.json", "generation_config.json",
    tokenizing.FILE, tokenizing.CONFIG, tokenizing.TEMPLATE,
)  # fmt: skip
APART = "adapter"  # the folder in a checkpoint of an adapter whose base is no model that anybody can name


def write(model: Student | PeftModel, spec: Spec, foundation: Foundation, folder: Path) -> None:
    """Write what a worker can serve into an empty folder: a whole model, or an adapter over its base.

    An adapter that was trained over a merged one is merged in its turn, and kept in a folder of its own.
    """
    _write_tokenizer(foundation, folder)
    if not isinstance(model, PeftModel):
        _write_config(foundation, folder)
        save_file(_whole(model), folder / WEIGHTS, {"format": "pt"})
    elif spec.base_adapter is None:
        _write_adapter(model, spec, folder)
    else:
        (folder / APART).mkdir()
        _write_adapter(model, spec, folder / APART)
        _write_config(foundation, folder)
        save_file(_merged(model, load_file(merged(spec) / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})


def read(model: Student | PeftModel, folder: Path) -> None:
    """Take the trained weights from a checkpoint."""
    if not isinstance(model, PeftModel):
        model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        model.tie_weights()
        return
    apart = folder / APART
    found = load_file((apart if apart.is_dir() else folder) / ADAPTER)
    ours = dict(_adapter_parameters(model))
    with torch.no_grad():
        for name, tensor in found.items():
            ours[name].copy_(tensor)


def copy_parts(checkpoint: Path, folder: Path) -> None:
    """Copy the model out of a checkpoint, without the state of its training."""
    folder.mkdir(parents=True)
    for name in PARTS:
        if (checkpoint / name).exists():
            shutil.copyfile(checkpoint / name, folder / name)


def _whole(model: Student) -> dict[str, Tensor]:
    tied = model.config.tie_word_embeddings
    state = model.state_dict()
    return {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in state.items()
        if not (tied and name == "lm_head.weight")
    }


def _write_config(foundation: Foundation, folder: Path) -> None:
    config = copy.deepcopy(foundation.config)
    config.architectures = [GPT2LMHeadModel.__name__]
    config.dtype = "float32"
    config.use_cache = True
    config.save_pretrained(folder)
    path = folder / "generation_config.json"
    if foundation.generation:
        path.write_text(json.dumps(foundation.generation, indent=2) + "\n")
    else:
        ends = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
        path.write_text(json.dumps(ends, indent=2) + "\n")


def _write_tokenizer(foundation: Foundation, folder: Path) -> None:
    foundation.tokenizer.save(str(folder / tokenizing.FILE))
    config = json.dumps(foundation.tokenizer_config, indent=2, ensure_ascii=False, sort_keys=True)
    (folder / tokenizing.CONFIG).write_text(config + "\n", encoding="utf-8")
    if foundation.chat_template is not None:
        (folder / tokenizing.TEMPLATE).write_text(foundation.chat_template, encoding="utf-8")


def _write_adapter(model: PeftModel, spec: Spec, folder: Path) -> None:
    config: Any = copy.deepcopy(model.peft_config["default"])
    config.base_model_name_or_path = spec.base_name
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set, whose order differs from run to run
    config.fan_in_fan_out = True  # GPT-2's own layers, whatever held them while this learned
    config.save_pretrained(str(folder))
    state = {name: tensor.float().cpu().contiguous() for name, tensor in _adapter_parameters(model)}
    save_file(state, folder / ADAPTER, {"format": "pt"})


def _adapter_parameters(model: PeftModel) -> list[tuple[str, Tensor]]:
    return sorted(get_peft_model_state_dict(model, save_embedding_layers=False).items())


def _merged(model: PeftModel, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's weights with B A in them; GPT-2's lie as [in, out]."""
    config: Any = model.peft_config["default"]
    halves = dict(_adapter_parameters(model))
    for name, a in halves.items():
        if ".lora_A." not in name:
            continue
        target = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
        b = halves[name.replace(".lora_A.", ".lora_B.")]
        delta = (b.float() @ a.float()).T.cpu() * (config.lora_alpha / config.r)
        base[target] = (base[target] + delta).contiguous()
    base.pop("lm_head.weight", None)
    return base
