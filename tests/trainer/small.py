"""A GPT-2 that is small enough for a test, an adapter over it, and orders to export them."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from trainer.export_order import Order

END = "<|endoftext|>"
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXT = "def name(self, value): return 12345  # é 😀\n" + END + "class Name:"
LINEAGE: dict[str, Any] = {
    "job": "ftjob-1",
    "base": "starter",
    "root": "starter",
    "base_digest": "ab" * 32,
    "init": "pretrained",
    "adapter": "lora",
    "training_file": "file-1",
    "training_sha256": "cd" * 32,
    "seed": 7,
    "hyperparameters": {
        "n_epochs": 3,
        "learning_rate": 0.0006000000000000001,
        "batch_size": 4,
        "precision": "bf16",
        "lora_target_modules": ["c_attn"],
    },
    "steps": 12,
    "trained_tokens": 34567,
    "metrics": {"train_loss": 1.25, "valid_loss": 2.0, "step": 12, "learning_rate": None},
    "code": {"torch": "2.13.0", "transformers": "5.23.0"},
}


def tokenizer() -> Tokenizer:
    """Bytes, some words, and digits that are never joined."""
    made = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r" ?\p{N}"), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(["def name(self, value): return value"] * 20, learner)
    return made


def write_model(folder: Path, shard: str = "1GB", **more: Any) -> Path:
    """Random weights with their tokenizer, as a model's folder."""
    torch.manual_seed(1)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": 300}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0, initializer_range=0.5)
    GPT2LMHeadModel(config).save_pretrained(folder, max_shard_size=shard)
    tokenizer().save(str(folder / "tokenizer.json"))
    if more:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


def write_adapter(base: Path, folder: Path) -> Path:
    """A LoRA over it that changes what it says, as PEFT saves one, with a chat template."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=["c_attn", "c_fc"],
        fan_in_fan_out=True,
        init_lora_weights=False,
    )
    with warnings.catch_warnings():  # PEFT asks for what transformers have renamed
        warnings.simplefilter("ignore", FutureWarning)
        get_peft_model(GPT2LMHeadModel.from_pretrained(base), config).save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def order(folder: Path, base: Path, **more: Any) -> Order:
    """To export it, without a past of its own unless there is more to say."""
    asked = {"name": "mine", "adapter": None, "card": None, "base_model": None, "lineage": None, **more}
    folder.mkdir(exist_ok=True)
    return Order(folder=folder, base=base, **asked)
