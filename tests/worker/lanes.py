"""Lanes over tiny models, and adapters as PEFT writes them, to test with."""

import json
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from jobs.catalog import ModelVersion
from jobs.settings import ModelSource
from tests.worker.conftest import CONTEXT, EOS, VOCAB
from worker.adapters import Adapter
from worker.engine import Engine
from worker.lanes import Lane, Served
from worker.loading import Description
from worker.memory import Need
from worker.model import Architecture
from worker.roster import Roster
from worker.rows import Rows

TINY = Architecture(model_type="gpt2", vocab_size=VOCAB, n_positions=CONTEXT, n_embd=64, n_layer=3, n_head=4)
ALL = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class FakeModel:
    """Says mostly what follows from the last token and the adapter; that is never the end of text."""

    vocab_size, context, eos_token_id, slot_bytes = VOCAB, CONTEXT, EOS, 1
    device, exact_rows = "cpu", False

    def __init__(self) -> None:
        self.adapters: dict[int, Adapter] = {}

    def reserve(self, slots: int) -> None:
        """It keeps nothing."""

    def forward(self, rows: Rows) -> Tensor:
        """One token has the greatest weight, the others differ."""
        last = torch.tensor([rows.tokens[row] for row in rows.wanted])
        logits = torch.sin(0.37 * (1 + last[:, None]) * torch.arange(VOCAB))
        for place, row in enumerate(rows.wanted):
            adapter = rows.adapters[row] if rows.adapters else -1
            assert adapter == -1 or adapter in self.adapters, "nobody speaks through what was forgotten"
            logits[place, 1 + (rows.tokens[row] + 7 * (adapter + 1)) % (VOCAB - 1)] = 9
        return logits

    def best(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """As `forward` has it."""
        logits = self.forward(rows)
        return logits.argmax(1), logits.isfinite().all(1)

    def copy(self, moves: list[tuple[int, int]], positions: list[int]) -> None:
        """It keeps nothing."""

    def clear(self, slot: int) -> None:
        """It keeps nothing."""

    def adapt(self, adapter: Adapter) -> int:
        """The lowest free number."""
        number = next(number for number in range(100) if number not in self.adapters)
        self.adapters[number] = adapter
        return number

    def forget(self, adapter: int) -> None:
        """Its number is free."""
        del self.adapters[adapter]


def describe(tokenizer: Tokenizer, **changes: Any) -> Description:
    """What loading would say of the tiny model."""
    said: dict[str, Any] = {
        "tokenizer": tokenizer,
        "tokenizer_json": tokenizer.to_str().encode(),
        "chat_template": None,
        "eos_token_id": EOS,
        "eos_token_ids": (EOS,),
        "context": CONTEXT,
        "vocab_size": VOCAB,
        "digest": "digest",
        "quantization": "fp32",
        "parameters": 1,
        "weight_bytes": 1,
        "original": None,
        "architecture": TINY,
    }
    return Description(**(said | changes))


def make_lane(
    name: str,
    tokenizer: Tokenizer,
    busy: threading.Event,
    engine: Engine | None = None,
    size: int = 1,
    **changes: Any,
) -> Lane:
    """A lane of one model, loaded if there is an engine, that needs `size` bytes."""
    need = Need(weights=size, slot=0, step=0, slots=4)
    lane = Lane(ModelSource(name, f"models/{name}", None), describe(tokenizer, **changes), need, "cpu", busy)
    if engine is not None:
        lane.start(engine, "torch")
    return lane


def serve(roster: Roster, lane: Lane, adapters: dict[str, Adapter] | None = None) -> Lane:
    """Let a roster serve a lane under its name, and adapters over it under theirs."""
    roster.residents.add(lane)
    known: dict[str, Adapter | None] = {lane.source.name: None, **(adapters or {})}
    for name, adapter in known.items():
        roster.answers.add({name: Served(_version(name, lane), lane, adapter)})
    return lane


def _version(name: str, lane: Lane) -> ModelVersion:
    return ModelVersion(
        name=name,
        digest="digest",
        quantization="fp32",
        parameters=1,
        context=CONTEXT,
        vocab_size=VOCAB,
        eos_token_id=EOS,
        tokenizer="tokenizer",
        chat_template=None,
        slots=lane.need.slots,
    )


def lora(
    architecture: Architecture, rank: int = 4, seed: int = 0, products: tuple[str, ...] = ALL
) -> dict[str, Tensor]:
    """The tensors of a PEFT file, strong enough to change what is said."""
    torch.manual_seed(seed)
    tensors = {}
    for layer in range(architecture.n_layer):
        for product in products:
            into, out = architecture.shapes()[f"h.{layer}.{product}.weight"]
            name = f"base_model.model.transformer.h.{layer}.{product}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, into) * 0.2
            tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank) * 0.2
    return tensors


def write_adapter(folder: Path, tensors: dict[str, Tensor], rank: int = 4, **changes: Any) -> Path:
    """A PEFT folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": True,
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
