"""The tokenizer of an export, as plain transformers load it: with the tokens that the model knows."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jobs.errors import ModelUnavailable
from trainer import tokenizing
from trainer.export_order import Order

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def write(order: Order, config: dict[str, Any]) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template, if there is one, into `order.model`.

    Raises:
        ModelUnavailable: there is no tokenizer, or it does not know the token that ends a text.
    """
    source = _source(order)
    tokenizer = tokenizing.read(source)
    tokenizer.save(str(order.model / tokenizing.FILE))
    described = json.dumps(_described(tokenizer, source, config), indent=2, ensure_ascii=False)
    (order.model / tokenizing.CONFIG).write_text(described + "\n", encoding="utf-8")
    template = tokenizing.chat_template(source)
    if template is not None:
        (order.model / tokenizing.TEMPLATE).write_text(template, encoding="utf-8")


def _source(order: Order) -> Path:
    """The folder whose tokenizer counts: an adapter may bring one, with a chat template of its own."""
    if order.adapter is not None and (order.adapter / tokenizing.FILE).exists():
        return order.adapter
    return order.base


def _described(tokenizer: Tokenizer, source: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Tokenizer_config.json: its special tokens are those of the model, whatever the source says."""
    found = tokenizing.config_of(source)
    special = {name: found[name] for name in _SPECIAL if found.get(name) is not None}
    ends = config.get("eos_token_id", 50256)
    special["eos_token"] = _text(tokenizer, ends[0] if isinstance(ends, list) else ends)
    if (begins := config.get("bos_token_id")) is not None:
        special["bos_token"] = _text(tokenizer, begins)
    return {
        # it takes tokenizer.json as it is; GPT-2's own class would put its rules in the place of others there
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.get("n_positions", 1024),
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
    }


def _text(tokenizer: Tokenizer, token: int) -> str:
    text: str | None = tokenizer.id_to_token(token)
    if text is None:
        raise ModelUnavailable(f"The tokenizer does not know the token {token}, which config.json names.")
    return text
