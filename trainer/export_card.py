"""The model card of an export: what is known of the model, and nothing else."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from jobs.errors import ModelUnavailable
from trainer import tokenizing
from trainer.export_order import Order
from trainer.export_weights import Made

_LICENCE = ("license", "license_name", "license_link")
_UNKNOWN = {"license": "unknown"}
_LOSSES = {"train_loss": "training loss, nats per token", "valid_loss": "validation loss, nats per token"}
_LINEAGE = {
    "base": "base model",
    "base_digest": "digest of the base model",
    "root": "model at the bottom",
    "job": "fine-tuning job",
    "init": "started from",
}
_METHODS = {
    "full": "all weights",
    "lora": "LoRA, merged into the weights here",
    "qlora": "QLoRA (learned over the base in 4 bits), merged into its full weights here",
}


def render(order: Order, made: Made) -> str:
    """README.md: the front matter that the Hub reads, then tables.

    Raises:
        ModelUnavailable: the card of the model at the bottom is not readable.
    """
    parts = [f"# {_text(order.title)}", _what(order, made), _how_to_use(order)]
    if order.lineage is not None:
        parts += [_data(order), _hyperparameters(order.lineage), _metrics(order.lineage)]
        parts += [_descent(order.name, order.lineage)]
    elif order.card is not None:
        whose = "its base model" if order.adapter is not None else _code(order.name)
        parts += [f"## The card of {whose}", _read(order.card).text.strip()]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{_front_matter(order)}---\n\n{body}\n"


def licence(order: Order) -> dict[str, Any]:
    """What the card of the model at the bottom says of its licence; unknown, where it says nothing."""
    said: dict[str, Any] = {} if order.card is None else dict(_read(order.card).data.__dict__)
    found = {name: said[name] for name in _LICENCE if said.get(name)}
    return found if "license" in found else dict(_UNKNOWN)


def _front_matter(order: Order) -> str:
    data = ModelCardData(
        **licence(order),
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=order.base_model,
        tags=["gpt2", "penstock"],
    )
    return str(data.to_yaml()).rstrip() + "\n"


def _read(card: Path) -> ModelCard:
    try:
        return ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelUnavailable(f"The card {card.name} of the base model cannot be read: {error}.") from error


def _what(order: Order, made: Made) -> str:
    c = made.config
    shape = f"{c['n_layer']} layers of width {c['n_embd']}, {c['n_head']} heads"
    size = f"{made.parameters:,} parameters: {shape}, {c['n_positions']} tokens of context"
    how = "fine-tuned and exported" if order.lineage is not None else "exported"
    return f"A GPT-2 with {size}, a vocabulary of {c['vocab_size']:,}. It was {how} by Penstock."


def _how_to_use(order: Order) -> str:
    where = order.push_to_hub or "."
    beside = "" if order.push_to_hub else " in the folder that this file lies in,"
    is_chat = (order.model / tokenizing.TEMPLATE).exists()
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f'tokenizer = AutoTokenizer.from_pretrained("{where}")',
        f'model = AutoModelForCausalLM.from_pretrained("{where}")',
        'prompt = tokenizer("Once upon a time", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))",
    ]
    if is_chat:
        lines[3] = (
            'prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], '
            'add_generation_prompt=True, return_dict=True, return_tensors="pt")'
        )
    code = "\n".join(lines)
    return (
        f"## How to use it\n\nWith `transformers`,{beside} and nothing of Penstock:\n\n```python\n{code}\n```"
    )


def _data(order: Order) -> str:
    lineage = order.lineage or {}
    rows = [(one.role, _code(one.filename or "deleted since"), _code(one.sha256)) for one in order.data]
    if lineage.get("validation_file") is None and _is_number(lineage.get("metrics", {}).get("valid_loss")):
        rows.append(("validation", "held out of the training file", ""))
    table = _table(("", "file", "SHA-256"), rows)
    tokens = lineage.get("trained_tokens")
    seen = "" if tokens is None else f"\n\nTokens trained on, every repetition counted: {tokens:,}."
    return f"## Data\n\n{table}{seen}"


def _hyperparameters(lineage: Mapping[str, Any]) -> str:
    values = {**lineage.get("hyperparameters", {}), "seed": lineage.get("seed")}
    rows = [(_code(name), _value(value)) for name, value in values.items() if value is not None]
    return f"## Hyperparameters\n\n{_table(('', ''), rows)}"


def _metrics(lineage: Mapping[str, Any]) -> str:
    """Those that were measured, of the step whose weights these are."""
    found = {name: value for name, value in lineage.get("metrics", {}).items() if _is_number(value)}
    rows = [(words, f"{found[name]:.4f}") for name, words in _LOSSES.items() if name in found]
    if "valid_loss" in found:
        rows.append(("validation perplexity", f"{math.exp(min(found['valid_loss'], 700.0)):.4g}"))
    if (steps := lineage.get("steps")) is not None:
        rows.append(("steps", f"{steps:,}"))
    return f"## Metrics\n\n{_table(('', ''), rows)}" if rows else ""


def _descent(name: str, lineage: Mapping[str, Any]) -> str:
    rows = [("name in Penstock", _code(name))]
    rows += [(words, _code(lineage[key])) for key, words in _LINEAGE.items() if lineage.get(key) is not None]
    if (method := lineage.get("adapter")) is not None:
        rows.append(("method", _METHODS.get(method, _code(method))))
    code = ", ".join(f"{package} {version}" for package, version in lineage.get("code", {}).items())
    rows += [("code", _text(code))] if code else []
    return f"## Lineage\n\n{_table(('', ''), rows)}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  ", "| ") for cells in lines)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _code(value: object) -> str:
    return f"`{_text(value).replace('`', chr(39))}`"


def _text(value: object) -> str:
    """On one line, and within its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
