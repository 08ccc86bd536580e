"""What a training begins with: the base model or fresh weights, its tokenizer, and the adapter on top."""

import copy
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import BitsAndBytesConfig, GPT2Config, set_seed
from transformers.pytorch_utils import Conv1D

from jobs.errors import ModelUnavailable
from jobs.finetune_input import TRAINED_VOCABULARY, Architecture
from jobs.plan import Shape
from trainer import folder_check, tokenizing
from trainer.network import Student, quickened
from trainer.spec import Spec

TOKENIZER, MERGED = "tokenizer", "merged"  # folders in the job's, made once
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Foundation:
    """All of a model but its weights, as the model that comes out will have it."""

    config: GPT2Config
    tokenizer: Tokenizer
    tokenizer_config: dict[str, Any]
    generation: dict[str, Any]  # of the base; empty: made from the configuration
    chat_template: str | None

    @property
    def shape(self) -> Shape:
        """What its size follows from."""
        c = self.config
        return Shape(c.n_layer, c.n_head, c.n_embd, c.n_positions, c.vocab_size)

    @property
    def eos_token_id(self) -> int:
        """The token that ends a text; the first, where there are several."""
        found = self.generation.get("eos_token_id")
        found = self.config.eos_token_id if found is None else found
        first: Any = found[0] if isinstance(found, list) else found
        return int(first)


def lay(spec: Spec) -> Foundation:
    """Read or make everything that comes before weights. Raises ModelUnavailable."""
    if spec.init == "scratch":
        return _from_scratch(spec)
    assert spec.model is not None
    tokenizer_config = tokenizing.config_of(spec.model)
    path = spec.model / "generation_config.json"
    return Foundation(
        config=_config(spec.model),
        tokenizer=tokenizing.read(spec.model),
        tokenizer_config=tokenizer_config,
        generation=json.loads(path.read_bytes()) if path.exists() else {},
        chat_template=tokenizing.chat_template(spec.model),
    )


def build(spec: Spec, foundation: Foundation, precision: str) -> Student | PeftModel:
    """The model that learns, on the CPU or where QLoRA puts it. Raises ModelUnavailable."""
    set_seed(spec.seed)
    if spec.init == "scratch":
        model = quickened(Student(copy.deepcopy(foundation.config)))
    else:
        assert spec.model is not None
        model = quickened(_pretrained(spec, spec.model, precision))
    return model if spec.adapter == "full" else _adapted(spec, model, precision)


def merged(spec: Spec) -> Path:
    """The folder of the base with `base_adapter` merged into it, made once."""
    folder = spec.folder / MERGED
    if not folder.exists():
        assert spec.model is not None
        assert spec.base_adapter is not None
        aside = spec.folder / f"{MERGED}.part"
        shutil.rmtree(aside, ignore_errors=True)
        _merge(_load(spec.model), spec.base_adapter).save_pretrained(aside)
        aside.rename(folder)
    return folder


def _from_scratch(spec: Spec) -> Foundation:
    asked = spec.architecture or _shape_of(spec.model)
    folder = spec.resume or spec.tokenizer
    if folder is not None:
        tokenizer, tokenizer_config = tokenizing.read(folder), tokenizing.config_of(folder)
    else:
        tokenizer, tokenizer_config = _learned(spec, asked.vocab_size or TRAINED_VOCABULARY), {}
    vocab_size = asked.vocab_size or tokenizer.get_vocab_size()
    if tokenizer.get_vocab_size() > vocab_size:
        raise ModelUnavailable(
            f"The tokenizer has {tokenizer.get_vocab_size():,} tokens, the architecture only {vocab_size:,}."
            " Leave out 'vocab_size' or raise it."
        )
    end = _end_of_text(tokenizer, tokenizer_config)
    text = tokenizer.id_to_token(end)
    made = {"bos_token": text, "eos_token": text, "unk_token": text}
    rest = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "errors": "replace"}
    return Foundation(
        config=GPT2Config(
            vocab_size=vocab_size,
            n_positions=asked.n_positions,
            n_embd=asked.n_embd,
            n_layer=asked.n_layer,
            n_head=asked.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=end,
            eos_token_id=end,
        ),
        tokenizer=tokenizer,
        tokenizer_config={**rest, **made, **tokenizer_config, "model_max_length": asked.n_positions},
        generation={},
        chat_template=None if folder is None else tokenizing.chat_template(folder),
    )


def _shape_of(folder: Path | None) -> Architecture:
    assert folder is not None, "without an architecture there is a base model"
    base = _config(folder)
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    return Architecture(**{name: getattr(base, name) for name in names})


def _learned(spec: Spec, vocab_size: int) -> Tokenizer:
    """A tokenizer trained on the file, kept for the next attempt."""
    path = spec.folder / TOKENIZER / tokenizing.FILE
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with spec.training.path.open("rb") as stream:
            tokenizer = tokenizing.learn(tokenizing.texts(stream, spec.training.filename), vocab_size)
        aside = path.with_suffix(".part")
        tokenizer.save(str(aside))
        aside.rename(path)
    return tokenizing.read(path.parent)


def _end_of_text(tokenizer: Tokenizer, config: dict[str, Any]) -> int:
    token = config.get("eos_token", tokenizing.END_OF_TEXT)
    text = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(text) if isinstance(text, str) else None
    if found is None:
        raise ModelUnavailable(f"The tokenizer has no token {text!r}, which is to end a text.")
    return int(found)


def _config(folder: Path) -> GPT2Config:
    try:
        found = json.loads((folder / "config.json").read_bytes())
        if found.get("model_type") != "gpt2":
            raise ModelUnavailable(f"{folder} holds no GPT-2 but {found.get('model_type')!r}.")
        folder_check.check_config(found)
        return GPT2Config.from_dict(found)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, StrictDataclassError) as error:
        raise ModelUnavailable(f"config.json of the base model cannot be read: {error}.") from error


def _pretrained(spec: Spec, folder: Path, precision: str) -> Student:
    if spec.adapter == "qlora":
        place = "cpu" if spec.device == "cpu" else torch.cuda.current_device()
        base = folder if spec.base_adapter is None else merged(spec)
        model = _load(base, quantization_config=_four_bits(precision), device_map={"": place})
        for module in model.modules():
            # else the first evaluation on a CPU lays the weights out anew, and no step after it can be made
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        return model
    model = _load(folder)
    return model if spec.base_adapter is None else _merge(model, spec.base_adapter)


def _load(folder: Path, **how: Any) -> Student:
    model: Any
    found: dict[str, Any]
    try:
        model, found = Student.from_pretrained(  # type: ignore[misc]  # it gives both, as it is asked to
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **how,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelUnavailable(f"The weights of the base model cannot be read: {error}.") from error
    for what in ("missing_keys", "mismatched_keys"):
        for name in found[what]:
            raise ModelUnavailable(f"The weights of the base model lack {name}, or it has another shape.")
    return model  # type: ignore[no-any-return]


def _four_bits(precision: str) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_DTYPES[precision],
    )


def _merge(model: Student, adapter: Path) -> Student:
    folder_check.check_adapter(adapter)
    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()  # type: ignore[no-any-return]
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelUnavailable(f"The adapter of the base model cannot be merged: {error}.") from error


def _adapted(spec: Spec, model: Student, precision: str) -> PeftModel:
    asked = spec.hyperparameters
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=asked.lora_r,
        lora_alpha=asked.lora_alpha,  # type: ignore[arg-type]  # a fraction does as well
        lora_dropout=asked.lora_dropout,
        target_modules=list(asked.lora_target_modules),
        fan_in_fan_out=spec.adapter == "lora",  # GPT-2's Conv1D, which four bits replace
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
    for module in model.modules():
        if isinstance(module, Conv1D):  # frozen: cast once and not in every pass, to the same numbers
            module.to(_DTYPES[precision])
    return adapted
